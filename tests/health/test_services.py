"""The hub and the key of wandb."""

import socket

import pytest

from launcher.health import services
from launcher.health.services import Prepared

KEY = "canary0123456789canary0123456789canary01"


def test_the_hub_is_reached_or_not_at_the_address_of_the_environment():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"}
        assert services.hub_error(address) is None
        assert (
            services.hub_error({"HF_ENDPOINT": "https://nowhere.invalid", "https_proxy": address["HF_ENDPOINT"]})
            is None
        )
    assert services.hub_error(address).startswith("127.0.0.1 cannot be reached")
    assert services.hub_error({"HF_ENDPOINT": "http://x:port"}) == "its address cannot be read"


def test_without_the_hub_a_bundle_is_advised_and_offline_is_no_problem():
    (found,) = services.hub_findings(False, "x cannot be reached: y", "https://x", Prepared(1, 2))
    assert found.level == "warning" and "--to BUNDLE" in found.cure
    assert services.hub_findings(True, None, "https://x", Prepared(1, 2))[0].level == "ok"
    assert [services.is_offline({"HF_HUB_OFFLINE": value}) for value in ("1", "true", "0", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_what_is_prepared_is_counted(tmp_path):
    (tmp_path / "prepared" / "a").mkdir(parents=True)
    (tmp_path / "prepared" / ".partial").mkdir()
    assert services.prepared(tmp_path) == Prepared(0, 1)


@pytest.mark.parametrize(
    ("passed_on", "elsewhere", "level"), [(False, False, "ok"), (True, True, "ok"), (False, True, "warning")]
)
def test_the_key_is_found_and_never_kept(passed_on, elsewhere, level):
    (found,) = services.wandb_findings(services.wandb_key_place({"WANDB_API_KEY": KEY}), passed_on, elsewhere)
    assert found.level == level and KEY not in repr(found)


def test_a_key_in_netrc_is_found(tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    environment = {"NETRC": str(tmp_path / "netrc")}
    assert services.wandb_key_place(environment) == environment["NETRC"]
    (tmp_path / "netrc").write_text("machine other\n  login user\n  password x\n")
    assert services.wandb_key_place(environment) == ""
    assert services.wandb_findings("", False, False)[0].level == "warning"
