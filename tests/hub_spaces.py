"""The Hub double's Spaces: secrets, variables, hardware, volumes, buckets, and who may make one.

Keeps what was set and what the Hub would answer. A secret's value is never read back. What of a
Space's README the Hub checks before a commit is here too.
"""

import re
from dataclasses import dataclass, field

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

HARDWARE = (("cpu-basic", 0), ("cpu-upgrade", 500), ("t4-small", 6667), ("zero-a10g", 0))
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SCOPES = {"email", "read-repos", "contribute-repos", "write-repos", "manage-repos", "jobs"}
KNOWN = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version"),
    *("app_file", "short_description", "tags", "license", "thumbnail", "models", "datasets"),
    *("suggested_hardware", "startup_duration_timeout", "preload_from_hub", "pinned"),
    *("hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes", "hf_oauth_authorized_org"),
}


@dataclass
class Space:
    """What surrounds a Space's files."""

    sdk: str
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    hardware: str = "cpu-basic"
    volumes: list[dict] = field(default_factory=list)


class Spaces:
    """By lower-case id. `bucket_ids` are the buckets that exist."""

    def __init__(self) -> None:
        self.spaces: dict[str, Space] = {}
        self.bucket_ids: list[str] = []

    def create(self, repo: str, held: dict) -> Response | None:
        """Remember what came with the repository; a refusal, or None."""
        if held.get("sdk") not in ("gradio", "docker", "static"):
            return JSONResponse({"error": '"sdk" must be one of [gradio, docker, static]'}, 400)
        space = self.spaces[repo.lower()] = Space(held["sdk"])
        space.secrets |= {row["key"]: row["value"] for row in held.get("secrets", ())}
        space.variables |= {row["key"]: row["value"] for row in held.get("variables", ())}
        space.hardware = held.get("hardware", space.hardware)
        space.volumes = held.get("volumes", [])
        return None

    def answer(self, request: Request, repo: str, verb: str, held: dict) -> Response:
        space = self.spaces[repo.lower()]
        if verb in ("secrets", "variables"):
            kept = space.secrets if verb == "secrets" else space.variables
            if request.method == "POST":
                kept[held["key"]] = held["value"]
            elif request.method == "DELETE":
                kept.pop(held["key"], None)
            shown = {
                key: {"updatedAt": "2026-01-01T00:00:00.000Z"}
                | ({} if verb == "secrets" else {"value": value})
                for key, value in kept.items()
            }
            return JSONResponse(shown)
        if verb == "volumes" and request.method == "PUT":
            space.volumes = held["volumes"]
        if verb == "hardware" and request.method == "POST":
            if held["flavor"] not in {name for name, _ in HARDWARE}:
                return JSONResponse({"error": "Invalid hardware flavor"}, 400)
            space.hardware = held["flavor"]
        return JSONResponse(
            {
                "stage": "BUILDING",
                "hardware": {"current": None, "requested": space.hardware},
                "gcTimeout": 172800,
                "volumes": space.volumes,
            }
        )

    def bucket(self, bucket: str, endpoint: str) -> Response:
        url = f"{endpoint}/buckets/{bucket}"
        if bucket in self.bucket_ids:
            return JSONResponse({"error": "You already created this bucket", "url": url}, 409)
        self.bucket_ids.append(bucket)
        return JSONResponse({"url": url})

    @staticmethod
    def machines() -> Response:
        return JSONResponse(
            [
                {
                    "name": name,
                    "prettyName": name.upper(),
                    "cpu": "2 vCPU",
                    "ram": "16 GB",
                    "ephemeralStorage": "50 GB",
                    "accelerator": None,
                    "unitCostMicroUSD": cost,
                    "unitCostUSD": cost / 1e6,
                    "unitLabel": "minute",
                }
                for name, cost in HARDWARE
            ]
        )


def space_readme_errors(text: str) -> list[str]:
    """What is wrong with a Space's front matter, by the Hub's reference of it."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    held = yaml.safe_load(match.group(1)) if match else {}
    wrong = [f'"{key}" is not known' for key in held.keys() - KNOWN]
    wrong += [
        f'"{key}" must be a colour of the Hub'
        for key in ("colorFrom", "colorTo")
        if held.get(key) not in COLOURS
    ]
    if held.get("sdk") not in ("gradio", "docker", "static"):
        wrong.append('"sdk" must be one of [gradio, docker, static]')
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(held.get("sdk_version"))):
        wrong.append('"sdk_version" must be a version')
    if not re.fullmatch(r"3\.\d+(\.\d+)?", str(held.get("python_version"))):
        wrong.append('"python_version" must be a version, in quotes')
    if len(held.get("short_description", "")) > 60:
        wrong.append('"short_description" length must be at most 60 characters')
    if held.get("suggested_hardware", "cpu-basic") not in {name for name, _ in HARDWARE}:
        wrong.append('"suggested_hardware" must be a hardware flavor')
    if not re.fullmatch(r"\d+(m|h)", str(held.get("startup_duration_timeout", "30m"))):
        wrong.append('"startup_duration_timeout" must be a duration')
    if not set(held.get("hf_oauth_scopes", ())) <= SCOPES:
        wrong.append('"hf_oauth_scopes" holds an unknown scope')
    minutes = held.get("hf_oauth_expiration_minutes", 480)
    if not isinstance(minutes, int) or not 1 <= minutes <= 43200:
        wrong.append('"hf_oauth_expiration_minutes" must be at most 43200')
    if not all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in held.get("models", ())):
        wrong.append('"models" must be ids')
    return wrong
