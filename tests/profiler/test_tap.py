"""The command line of `twistd profiler`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from twisted.application.service import IServiceMaker, MultiService
from twisted.plugin import getPlugins

from orchestratord.profiler.agent import Profiler, ProfilerSettings
from orchestratord.profiler.ebpf import Machine
from orchestratord.profiler.tap import Options, makeService

if TYPE_CHECKING:
    from collections.abc import Mapping

CAPABLE = Machine(euid=0, which=lambda name: name)


def settings(*arguments: str, environ: Mapping[str, str] | None = None, machine: Machine = CAPABLE) -> ProfilerSettings:
    """Return the options for a command line and an environment."""
    options = Options({} if environ is None else environ, machine)
    options.parseOptions(list(arguments))
    return options.settings


class TestOptions:
    """Options: the command line first, then the environment, then the defaults."""

    def test_defaults(self) -> None:
        """Without options, the profiler reports this host to an orchestrator on this host, every 10 s."""
        assert settings() == ProfilerSettings(
            orchestrator="http://127.0.0.1:5000", node_id=socket.gethostname(), interval=10.0, source="auto"
        )

    def test_flags(self) -> None:
        """Each flag sets its setting."""
        line = ("--orchestrator=https://o/x", "--node-id", "n1", "--interval", "2.5", "--source", "procfs")
        assert settings(*line) == ProfilerSettings(
            orchestrator="https://o/x", node_id="n1", interval=2.5, source="procfs"
        )

    def test_environment(self) -> None:
        """Each option can be set by the environment; an empty variable counts as unset."""
        environ = {
            "PROFILER_ORCHESTRATOR": "http://o",
            "PROFILER_NODE_ID": "n2",
            "PROFILER_INTERVAL": "30",
            "PROFILER_SOURCE": "",
        }
        assert settings(environ=environ) == ProfilerSettings(
            orchestrator="http://o", node_id="n2", interval=30.0, source="auto"
        )

    def test_https(self) -> None:
        """Authorities and a client certificate are paths, from flags and environment."""
        environ = {"PROFILER_ORCHESTRATOR": "https://o", "PROFILER_CA": "/ca", "PROFILER_KEY": "/key"}
        made = settings("--certificate=/certificate", environ=environ)
        assert (made.ca, made.certificate, made.key) == (Path("/ca"), Path("/certificate"), Path("/key"))
        assert settings().ca is None

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (("--ca=/ca",), "--ca '/ca' is for an orchestrator at an https:// URL"),
            (("--orchestrator=https://o", "--certificate=/c"), "--certificate '/c' needs --key as well"),
            (("--orchestrator=https://o", "--key=/k"), "--key '/k' needs --certificate as well"),
        ],
    )
    def test_files_that_do_not_go_together(self, line: tuple[str, ...], said: str) -> None:
        """One line."""
        with pytest.raises(SystemExit) as raised:
            settings(*line)
        assert str(raised.value) == f"twistd profiler: {said}"

    def test_flag_over_environment(self) -> None:
        """A flag takes precedence over the environment."""
        assert settings("--node-id", "flag", environ={"PROFILER_NODE_ID": "environment"}).node_id == "flag"

    def test_other_variables(self) -> None:
        """Other variables, such as those of the kubelet for a service named profiler, are ignored."""
        environ = {"PROFILER_PORT": "tcp://10.0.0.1:80", "PROFILER_SERVICE_HOST": "10.0.0.1", "PROFILER_X": "y"}
        assert settings(environ=environ).interval == 10

    @pytest.mark.parametrize(
        ("flag", "variable", "value"),
        [
            ("--orchestrator", "PROFILER_ORCHESTRATOR", "orchestrator:5000"),
            ("--node-id", "PROFILER_NODE_ID", "no spaces"),
            ("--interval", "PROFILER_INTERVAL", "soon"),
            ("--interval", "PROFILER_INTERVAL", "0"),
            ("--interval", "PROFILER_INTERVAL", "nan"),
            ("--source", "PROFILER_SOURCE", "perf"),
        ],
    )
    def test_wrong_value(self, flag: str, variable: str, value: str) -> None:
        """A wrong value gives one line with the value, and the flag or variable that set it."""
        with pytest.raises(SystemExit) as from_flag:
            settings(flag, value)
        with pytest.raises(SystemExit) as from_environment:
            settings(environ={variable: value})
        for error, origin in ((from_flag, flag), (from_environment, variable)):
            text = str(error.value)
            assert text.startswith(f"twistd profiler: {origin} ")
            assert value in text
            assert "\n" not in text

    def test_token_file(self, tmp_path: Path) -> None:
        """By flag or by environment. If the file is missing or has no token, the start fails with one line."""
        path = tmp_path / "token"
        for given in (
            lambda: settings("--token-file", str(path)),
            lambda: settings(environ={"PROFILER_TOKEN_FILE": str(path)}),
        ):
            path.write_text("a-token-0123456789\n")
            assert given().token_file == path
            path.write_text("# secret\n")
            with pytest.raises(SystemExit) as raised:
                given()
            assert "TOKEN_FILE" in str(raised.value).upper().replace("-", "_")
            assert str(raised.value).endswith(f"{str(path)!r} holds no token")
        with pytest.raises(SystemExit, match=r"^twistd profiler: --token-file: '/none' cannot be read: No such file"):
            settings("--token-file", "/none")

    def test_ebpf_that_cannot_work(self) -> None:
        """If eBPF is requested and cannot work, the start fails with the reason; with `auto` it does not."""
        machine = Machine(euid=1000, which=lambda name: name)
        with pytest.raises(SystemExit, match=r"^twistd profiler: --source 'ebpf' does not work here: not root$"):
            settings("--source", "ebpf", machine=machine)
        assert settings(machine=machine).source == "auto"


class TestMakeService:
    """makeService: the service that twistd runs."""

    def test_service(self) -> None:
        """The service contains a profiler, and the service that ends the process at a signal."""
        options = Options({}, CAPABLE)
        options.parseOptions(["--node-id", "n1"])
        service = makeService(options)
        assert isinstance(service, MultiService)
        assert [type(part).__name__ for part in service] == ["Profiler", "Signals"]
        assert isinstance(service.getServiceNamed("profiler"), Profiler)

    def test_files_that_cannot_be_read(self) -> None:
        """One line that names the option and the file, before anything starts."""
        options = Options({}, CAPABLE)
        options.parseOptions(["--orchestrator=https://o", "--ca=/does/not/exist"])
        with pytest.raises(SystemExit, match=r"^twistd profiler: --ca: '/does/not/exist' cannot be read: No such file"):
            makeService(options)

    def test_plugin(self) -> None:
        """The plugin `profiler` of twistd is this module."""
        makers: dict[str, Any] = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        assert makers["profiler"].module == "orchestratord.profiler.tap"
