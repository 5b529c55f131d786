"""Keeps a copy of the users of a domain with list and watch of the dynamic client. Prints it for each line of input."""
import json
import sys
import threading

from kubernetes import config
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient

kubeconfig, domain = sys.argv[1:]
client = DynamicClient(config.new_client_from_config(kubeconfig))
users = client.resources.get(api_version="directory.roster.dev/v1alpha1", kind="User")
selector = f"spec.domain={domain}"
copy = {}


def follow():
    revision = None
    while True:
        try:
            if revision is None:
                listed = users.get(field_selector=selector)
                copy.clear()
                copy.update({item.metadata.name: item.spec.displayName for item in listed.items})
                revision = listed.metadata.resourceVersion
            for event in users.watch(field_selector=selector, resource_version=revision, timeout=5):
                item = event["object"]
                revision = item.metadata.resourceVersion
                if event["type"] == "DELETED":
                    copy.pop(item.metadata.name, None)
                else:
                    copy[item.metadata.name] = item.spec.displayName
        except ApiException as error:
            if error.status == 410:
                revision = None
        except Exception:
            # The connection was closed: resume the watch at the last revision.
            pass


threading.Thread(target=follow, daemon=True).start()
for _ in sys.stdin:
    print(json.dumps(dict(copy), sort_keys=True), flush=True)
