"""Turns Kubernetes' swagger.json into one strict JSON schema for each kind, as kubeconform wants them.

python3 json_schemas.py SWAGGER_JSON FOLDER writes FOLDER/KIND-GROUP-VERSION.json (all in lower case,
GROUP without its domain), each with every definition that it needs.
"""

import copy
import json
import os
import sys

PREFIX = "#/definitions/"


def references(node):
    """Names of all definitions that `node` refers to."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix(PREFIX)
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def strict(name, definition):
    """A copy that refuses fields nobody defined, and takes null where a field may be left out."""
    definition = copy.deepcopy(definition)
    if "properties" in definition:
        definition.setdefault("additionalProperties", False)
        required = definition.get("required", [])
        for field, schema in definition["properties"].items():
            if field not in required and isinstance(schema.get("type"), str):
                schema["type"] = [schema["type"], "null"]
    # Two types are written as a string or as a number.
    if name.endswith(("util.intstr.IntOrString", "api.resource.Quantity")):
        definition = {"oneOf": [{"type": "string"}, {"type": "number"}]}
    return definition


def main():
    swagger, folder = sys.argv[1:]
    with open(swagger, encoding="utf-8") as file:
        source = json.load(file)["definitions"]
    definitions = {name: strict(name, definition) for name, definition in source.items()}
    os.makedirs(folder, exist_ok=True)
    for name, definition in source.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            needed, todo = set(), [name]
            while todo:
                for other in references(definitions[todo.pop()]):
                    if other not in needed:
                        needed.add(other)
                        todo.append(other)
            schema = copy.deepcopy(definitions[name])
            if "properties" in schema:
                api = "/".join(filter(None, [kind["group"], kind["version"]]))
                for field, value in (("apiVersion", api), ("kind", kind["kind"])):
                    if field in schema["properties"]:
                        schema["properties"][field]["enum"] = [value]
            schema["definitions"] = {other: definitions[other] for other in sorted(needed)}
            parts = [kind["kind"], kind["group"].split(".")[0], kind["version"]]
            path = os.path.join(folder, "-".join(filter(None, parts)).lower() + ".json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(schema, file)


if __name__ == "__main__":
    main()
