# SPDX-License-Identifier: Apache-2.0
"""docs/openapi.json as a judge: calls of the real API, whose statuses and bodies have to be what is described."""

import json
import ssl
import urllib.error
import urllib.request

import jsonschema

PROBLEM = "application/problem+json"


class Api:
    """An API at URL, asked with a token; `validated` collects (method, route) of what succeeded and was as described."""

    def __init__(self, description, url, token, ca):
        self.description, self.url, self.token = description, url, token
        self.tls = ssl.create_default_context(cafile=ca)
        self.tls.check_hostname = False  # labs reach their managers by other addresses than the certificate has
        self.validated = set()

    def open(self, method, path, body=None, headers=None):
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", "Bearer " + self.token)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        data = json.dumps(body).encode() if body is not None else None
        return urllib.request.urlopen(request, data=data, timeout=20, context=self.tls)

    def call(self, method, route, body=None, **parts):
        """Calls a route of the description, checks status and body against it, and returns both."""
        try:
            answer = self.open(method, route.format(**parts), body)
        except urllib.error.HTTPError as e:
            answer = e
        with answer:
            status, raw, kind = answer.status, answer.read(), answer.headers.get_content_type()
        document = self.check(method, route.split("?")[0], status, kind, raw)
        if status < 300:
            self.validated.add((method, route.split("?")[0]))
        return status, document

    def check(self, method, route, status, kind, raw):
        """The body, if it is what the description says of this status; AssertionError otherwise."""
        responses = self.description["paths"][route][method.lower()]["responses"]
        response = responses.get(str(status)) or responses["default"]
        if "$ref" in response:
            response = self.description["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        if "content" not in response:
            assert raw == b"", f"{method} {route}: {status} has a body"
            return None
        assert kind in response["content"], f"{method} {route}: {status} is {kind}"
        assert status < 300 or kind == PROBLEM, f"{method} {route}: {status} is {kind}"
        if not kind.endswith(("/json", "+json")):
            return raw.decode()
        document = json.loads(raw)
        self.validate(document, response["content"][kind]["schema"])
        return document

    def validate(self, document, schema):
        """`schema`: one, or the name of one of the description's."""
        if isinstance(schema, str):
            schema = {"$ref": f"#/components/schemas/{schema}"}
        jsonschema.Draft202012Validator({"components": self.description["components"], **schema}).validate(document)

    def finish(self, task):
        while not task["status"]["finished"]:
            _, task = self.call("GET", "/api/v1/tasks/{name}", name=task["name"])
        return task


def routes(description):
    return {(method.upper(), path) for path, item in description["paths"].items() for method in item if method != "parameters"}
