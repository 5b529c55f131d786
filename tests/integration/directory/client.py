"""Logs in, creates an API key, and sends every GET of the directory, with a client that openapi-python-client generated
from the OpenAPI document. Fails if a response is not what the document describes: if it has another status, properties
that the generated types do not declare, or values that they do not write again as they were.

Reads its parameters from standard input, as JSON. Prints the number of GETs.
"""

import datetime
import importlib
import inspect
import json
import pkgutil
import ssl
import sys

import attrs

given = json.load(sys.stdin)
sys.path.insert(0, given["folder"])
generated = importlib.import_module(given["package"])
models = importlib.import_module(given["package"] + ".models")
api = importlib.import_module(given["package"] + ".api.default")


def unknown_properties(value, path):
    """Yields the paths of properties that the type of `value` does not declare. A type without any is a map."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from unknown_properties(item, f"{path}[{at}]")
    if not attrs.has(type(value)):
        return
    declared = [field.name for field in attrs.fields(type(value)) if field.name != "additional_properties"]
    if declared:
        yield from (f"{path}.{name}" for name in getattr(value, "additional_properties", {}))
    for name in declared:
        yield from unknown_properties(getattr(value, name), f"{path}.{name}")


def is_same(one, other):
    """Compares JSON values. Times may have different forms."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, str) and isinstance(other, str) and one != other:
        return datetime.datetime.fromisoformat(one) == datetime.datetime.fromisoformat(other)
    return one == other


def call(client, operation, status, **arguments):
    response = importlib.import_module(f"{api.__name__}.{operation}").sync_detailed(client=client, **arguments)
    answer = json.loads(response.content)
    assert response.status_code == status, (operation, response.status_code, answer)
    unknown = list(unknown_properties(response.parsed, operation))
    assert not unknown, f"not in the OpenAPI document: {unknown}"
    assert is_same(response.parsed.to_dict(), answer), (operation, answer, response.parsed.to_dict())
    return response.parsed


context = ssl.create_default_context(cafile=given["authority"])
anonymous = generated.Client(base_url=given["url"], verify_ssl=context)
login = call(anonymous, "createlogins", 201, body=models.DevRosterDirectoryV1Alpha1Login.from_dict(given["login"]))
session = generated.AuthenticatedClient(base_url=given["url"], token=login.status.token, verify_ssl=context)
key = models.DevRosterDirectoryV1Alpha1APIKey.from_dict(given["key"])
key = call(session, "createusers_apikeys_name", 201, name="~", body=key)

administrator = generated.AuthenticatedClient(base_url=given["url"], token=given["token"], verify_ssl=context)
parameters = {"name": given["name"], "user": given["name"], "key": key.metadata.name}
calls = 0
for module in pkgutil.iter_modules(api.__path__):
    if module.name.startswith(("get", "list")):
        accepted = inspect.signature(importlib.import_module(f"{api.__name__}.{module.name}").sync_detailed).parameters
        call(administrator, module.name, 200, **{name: parameters[name] for name in accepted if name in parameters})
        calls += 1

users = call(administrator, "listusers", 200, filter_by=f"name,{given['name']}")
assert (users.total, users.items[0].metadata.name) == (1, given["name"]), users
print(calls)
