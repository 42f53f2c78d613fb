"""Finding JavaScript runtimes and their command lines, with real binaries and stand-ins for
versions this machine lacks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.sdk_host import Host
from workers_runtime.javascript import JavaScript, JavaScriptError, find_javascript

PATH = os.pathsep.join(os.get_exec_path())
NPM_OPTIONS = ["install", "--omit=dev", "--no-audit", "--no-fund"]


def binary(folder: Path, name: str, version: str, code: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\nexit {code}\n")
    path.chmod(0o755)
    return path


def node(version: tuple[int, int, int]) -> JavaScript:
    return JavaScript("node", Path("/usr/bin/node"), version)


class TestFind:
    def test_prefers_bun(self, tmp_path: Path) -> None:
        binary(tmp_path / "a", "node", "v22.0.0")
        bun = binary(tmp_path / "b", "bun", "1.2.3")
        found = find_javascript(f"{tmp_path / 'a'}:{tmp_path / 'b'}")
        assert found == JavaScript("bun", bun, (1, 2, 3))

    def test_passes_over_what_does_not_start_or_is_too_old(self, tmp_path: Path) -> None:
        binary(tmp_path / "a", "bun", "1.2.3", code=1)
        binary(tmp_path / "a", "node", "v18.19.0")
        new = binary(tmp_path / "b", "node", "v20.0.0")
        (tmp_path / "a" / "bun").chmod(0o755)
        found = find_javascript(f"{tmp_path / 'a'}:{tmp_path / 'b'}")
        assert found == JavaScript("node", new, (20, 0, 0))

    def test_finds_nothing_where_nothing_is(self, tmp_path: Path) -> None:
        binary(tmp_path / "a", "node", "v18.19.0")
        (tmp_path / "a" / "bun").write_text("not executable")
        assert find_javascript(str(tmp_path / "a")) is None
        assert find_javascript(str(tmp_path / "missing")) is None

    def test_asks_as_the_caller_wants(self, tmp_path: Path) -> None:
        path = binary(tmp_path / "a", "node", "v22.0.0")
        assert find_javascript(str(path.parent), lambda _: None) is None

    def test_this_machine_has_one(self) -> None:
        found = find_javascript(PATH)
        assert found is not None
        assert found.path.is_absolute()
        assert str(found) in {f"Node {_version(found)}", f"Bun {_version(found)}"}


class TestCommand:
    def test_node(self, tmp_path: Path) -> None:
        prelude = tmp_path / "with space" / "prelude.mjs"
        assert node((20, 19, 0)).command("src/index.js", prelude=prelude, memory_mb=512) == [
            "/usr/bin/node",
            "--max-old-space-size=384",
            "--import",
            prelude.as_uri(),
            "./src/index.js",
        ]

    def test_bun(self) -> None:
        bun = JavaScript("bun", Path("/opt/bun"), (1, 2, 0))
        assert bun.command("index.ts", prelude=Path("/sdk/prelude.mjs")) == [
            "/opt/bun",
            "--preload",
            "/sdk/prelude.mjs",
            "./index.ts",
        ]

    @pytest.mark.parametrize("version", [(20, 10, 0), (20, 18, 9), (21, 7, 0), (22, 6, 0)])
    def test_older_nodes_are_told_to_look_for_modules(self, version: tuple[int, int, int]) -> None:
        assert "--experimental-detect-module" in node(version).command("index.js")

    @pytest.mark.parametrize(
        ("version", "asked"),
        [((22, 6, 0), True), ((22, 18, 0), False), ((23, 5, 0), True), ((24, 0, 0), False)],
    )
    def test_typescript(self, version: tuple[int, int, int], asked: bool) -> None:
        command = node(version).command("index.ts")
        assert ("--experimental-strip-types" in command) is asked

    @pytest.mark.parametrize("version", [(20, 20, 2), (22, 5, 1)])
    def test_typescript_on_a_node_that_cannot(self, version: tuple[int, int, int]) -> None:
        with pytest.raises(JavaScriptError, match=r"src/index\.ts is TypeScript, which Node 2"):
            node(version).command("src/index.ts")

    def test_typescript_runs_or_is_refused(self, tmp_path: Path) -> None:
        found = find_javascript(PATH)
        assert found is not None
        (tmp_path / "index.ts").write_text(
            "type P = { a: number };\nserve({ rpc: { add: (p: P): number => p.a + 1 } });"
        )
        if not found.strips_types:
            with pytest.raises(JavaScriptError, match="is TypeScript"):
                found.command("index.ts")
            return
        host = Host("js", tmp_path, "index.ts", {})
        try:
            assert host.ready().rpc("add", {"a": 1}) == 2
            assert not host.stderr
        finally:
            host.close()


class TestInstall:
    def test_bun(self) -> None:
        bun = JavaScript("bun", Path("/opt/bun"), (1, 2, 0))
        assert bun.install_command("") == ["/opt/bun", "install"]

    def test_npm_beside_node_comes_first(self, tmp_path: Path) -> None:
        ours, other = (binary(tmp_path / name, "npm", "10") for name in ("a", "b"))
        found = JavaScript("node", tmp_path / "a" / "node", (20, 0, 0))
        assert found.install_command(str(other.parent)) == [str(ours), *NPM_OPTIONS]

    def test_npm_as_a_script_is_run_by_this_node(self, tmp_path: Path) -> None:
        script = binary(tmp_path / "lib", "npm-cli.js", "10")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "npm").symlink_to(script)
        found = JavaScript("node", tmp_path / "bin" / "node", (20, 0, 0))
        expected = [str(found.path), str(script.resolve()), *NPM_OPTIONS]
        assert found.install_command("/nowhere") == expected

    def test_no_npm(self, tmp_path: Path) -> None:
        found = JavaScript("node", tmp_path / "node", (20, 0, 0))
        with pytest.raises(JavaScriptError, match="needs Bun or npm"):
            found.install_command(str(tmp_path))

    def test_a_local_package_is_installed_and_can_be_imported(self, tmp_path: Path) -> None:
        found = find_javascript(PATH)
        assert found is not None
        app, library = tmp_path / "app", tmp_path / "app" / "greeter"
        library.mkdir(parents=True)
        _write(library / "package.json", {"name": "greeter", "version": "1.0.0", "main": "a.js"})
        (library / "a.js").write_text("exports.greet = (name) => `hello ${name}`;")
        _write(app / "package.json", {"name": "app", "dependencies": {"greeter": "file:greeter"}})
        (app / "index.mjs").write_text(
            "import { greet } from 'greeter';\nserve({ rpc: { greet } });"
        )
        subprocess.run(
            found.install_command(PATH),
            cwd=app,
            env={"PATH": PATH, "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            timeout=120,
        )
        host = Host("js", app, "index.mjs", {})
        try:
            assert host.ready().rpc("greet", "Ana") == "hello Ana"
        finally:
            host.close()


def _version(found: JavaScript) -> str:
    return ".".join(map(str, found.version))


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))
