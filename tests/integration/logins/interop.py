"""Checks interoperability with argon2-cffi, passlib, PyJWT and PyOTP.

Reads a JSON object with a hash, a token, its keys and a seed of Roster from standard input. Prints a JSON object with the
results of their verification, and with hashes and a code for Roster to verify.
"""

import json
import sys

import argon2
import jwt
import pyotp
from passlib.hash import pbkdf2_sha256, pbkdf2_sha512, scrypt

given = json.load(sys.stdin)
password = given["password"]

hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
key = jwt.PyJWKSet.from_dict(given["jwks"]).keys[0]
header = jwt.get_unverified_header(given["token"])
claims = jwt.decode(
    given["token"], key=key, algorithms=["ES256"], audience="kubernetes", issuer=given["issuer"]
)

json.dump(
    {
        "verifies": hasher.verify(given["hash"], password),
        "username": claims["preferred_username"],
        "keyMatches": header["kid"] == key.key_id,
        "hashes": [
            hasher.hash(password),
            pbkdf2_sha256.using(rounds=20000).hash(password),
            pbkdf2_sha512.using(rounds=20000).hash(password),
            scrypt.using(rounds=14).hash(password),
        ],
        "code": pyotp.parse_uri(given["url"]).now(),
    },
    sys.stdout,
)
