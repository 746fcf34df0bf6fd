"""Small faults put into the code on purpose, one at a time: does a test notice?

    python tests/mutants.py geometry losses

Pytest collects the tests once; every mutant then lives in a fork of that process, which changes
the functions in place and runs the tests that call them, the fastest first, up to the first
failure. Which mutants nothing can notice, and why, is in mutants.md.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SLOW = 4.0
"""Seconds; tests that take longer are left out, and a mutant gets so many on top of its tests."""

Place = tuple[str, int]
"""File and first line of a function; line 0 is the module."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.Break: ast.Pass,
    ast.Continue: ast.Pass,
    ast.Raise: ast.Pass,
    ast.AugAssign: ast.Pass,
}


class Mutant(NamedTuple):
    path: Path
    line: int
    place: Place
    change: str
    tree: ast.Module


def edits(node: ast.AST) -> Iterator[Callable[[], object]]:
    """Make functions that change one thing about a node, in place."""

    def put(name: str, value: object) -> Callable[[], object]:
        return lambda: setattr(node, name, value)

    def become(other: ast.AST) -> Callable[[], object]:
        def change() -> None:
            node.__class__ = type(other)
            vars(node).update(vars(other))

        return change

    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            if type(op) in SWAPS:
                yield put("ops", [*node.ops[:k], SWAPS[type(op)](), *node.ops[k + 1 :]])
    elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPS:
        yield put("op", SWAPS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield become(copy.deepcopy(node.operand))
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield put("test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, (bool, int, float, str)):
            if isinstance(value, bool):
                wrong: object = not value
            elif isinstance(value, str):
                wrong = value + "?"
            else:
                wrong = value + 1 if isinstance(value, int) else 2 * value or 1.0
            yield put("value", wrong)
    if type(node) in SWAPS and isinstance(node, ast.stmt):
        yield become(ast.Pass())
    stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if stored or called:
        yield become(ast.Pass())


def changeable(tree: ast.Module) -> list[tuple[ast.AST, int, ast.stmt]]:
    """List nodes that are run and matter, with their function's first line and their statement."""
    found: list[tuple[ast.AST, int, ast.stmt]] = []

    def walk(node: ast.AST, first: int, *, inside: bool, statement: ast.stmt | None) -> None:
        statement = node if isinstance(node, ast.stmt) else statement
        if isinstance(node, ast.FunctionDef) and not inside:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        if statement is not None:
            found.append((node, first, statement))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or isinstance(node, (ast.JoinedStr, ast.Raise)):
                    continue  # no tree, or the words of a message
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue  # a docstring
                function = isinstance(node, ast.FunctionDef)
                at_definition = function and name == "args" and not inside
                walk(
                    child,
                    0 if at_definition else first,
                    inside=inside or function,
                    statement=statement,
                )

    walk(tree, 0, inside=False, statement=None)
    return found


def mutants_of(path: Path) -> Iterator[Mutant]:
    tree = ast.parse(path.read_text())
    for k, (node, first, statement) in enumerate(changeable(tree)):
        before = head(statement)
        for which in range(len(list(edits(node)))):
            changed = copy.deepcopy(tree)
            again, _, whole = changeable(changed)[k]
            list(edits(again))[which]()
            ast.fix_missing_locations(changed)
            change = f"{before}  =>  {head(whole)}"
            yield Mutant(path, statement.lineno, (str(path), first), change, changed)


def head(statement: ast.stmt) -> str:
    """Write a statement in one line, without its body."""
    text = ast.unparse(statement)
    return text.split("\n", 1)[0] if hasattr(statement, "body") else " ".join(text.split())


def functions(namespace: dict[str, Any], module: str) -> dict[str, types.FunctionType]:
    """List the functions and methods that a module defines, by qualified name."""
    found = {}
    for value in list(namespace.values()):
        members = [value]
        if isinstance(value, type) and value.__module__ == module:
            members = list(vars(value).values())
        for member in members:
            inner = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(inner, types.FunctionType) and inner.__module__ == module:
                found[inner.__qualname__] = inner
    return found


def apply(mutant: Mutant) -> None:
    """Change the imported module, and what others imported from it, in place."""
    name = ".".join(mutant.path.relative_to(ROOT).with_suffix("").parts)
    module = sys.modules[name]
    fresh = types.ModuleType(name)
    fresh.__file__ = str(mutant.path)
    exec(compile(mutant.tree, str(mutant.path), "exec"), vars(fresh))
    new = functions(vars(fresh), name)
    for qualname, function in functions(vars(module), name).items():
        other = new[qualname]
        function.__code__ = other.__code__
        function.__defaults__ = other.__defaults__
        function.__kwdefaults__ = other.__kwdefaults__
    for key, value in vars(fresh).items():
        kinds = (types.FunctionType, types.ModuleType, type)
        if key.startswith("__") or isinstance(value, kinds) or hasattr(value, "__wrapped__"):
            continue
        old = vars(module).get(key)
        for user in list(sys.modules.values()):
            ours = getattr(user, "__name__", "").split(".")[0] in ("segfix", "tests")
            if ours and vars(user).get(key) is old:
                setattr(user, key, value)


class Runner:
    """Run the tests on every mutant, as a plugin of pytest."""

    def __init__(self, lines: dict[Path, set[int]], log: Path) -> None:
        self.lines, self.log = lines, log

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        # A failure need not be made small. The tests' conftest.py has been read by now.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings.get_profile("segfix"), phases=phases)
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        calls = self.calls_of(session)
        chosen = [i for i in session.items if i.nodeid in calls and calls[i.nodeid][0] < SLOW]
        chosen.sort(key=lambda item: calls[item.nodeid][0])
        print(f"\n{len(chosen)} of {len(session.items)} tests take part", flush=True)
        counts: dict[str, int] = {}
        for path, lines in self.lines.items():
            for mutant in mutants_of(path):
                if lines and mutant.line not in lines:
                    continue
                module = (str(path), 0)
                places = {mutant.place} if mutant.place != module else None
                items = [
                    item
                    for item in chosen
                    if (places or {p for p in calls[item.nodeid][1] if p[0] == str(path)})
                    & calls[item.nodeid][1]
                ]
                seconds = sum(calls[item.nodeid][0] for item in items)
                outcome, by = self.forked(
                    partial(self.try_out, mutant, session, items),
                    2 * seconds + SLOW,
                )
                counts[outcome] = counts.get(outcome, 0) + 1
                row = [outcome, f"{path.relative_to(ROOT)}:{mutant.line}", mutant.change, by]
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if outcome == "survived":
                    print(*row[1:3], flush=True)
        print(counts, flush=True)
        return True

    def calls_of(self, session: pytest.Session) -> dict[str, tuple[float, set[Place]]]:
        """Record seconds and called functions of every test that passes without a mutant."""
        folder = str(ROOT / "segfix")

        def run(report: Callable[[str], object]) -> str:
            called: set[Place] = set()

            def profile(frame: types.FrameType, event: str, _: object) -> None:
                code = frame.f_code
                if event == "call" and code.co_filename.startswith(folder):
                    called.add((code.co_filename, code.co_firstlineno))

            started = time.process_time()
            sys.setprofile(profile)
            for item, passed in self.passing(session, session.items):
                sys.setprofile(None)
                if not passed:
                    report(json.dumps([item.nodeid, 1e9, []]) + "\n")
                seconds = time.process_time() - started
                report(json.dumps([item.nodeid, seconds, sorted(called)]) + "\n")
                called.clear()
                started = time.process_time()
                sys.setprofile(profile)
            sys.setprofile(None)
            return ""

        _, lines = self.forked(run, 1e6)
        rows = [json.loads(line) for line in lines.splitlines()]
        return {name: (seconds, {(f, n) for f, n in places}) for name, seconds, places in rows}

    def try_out(
        self,
        mutant: Mutant,
        session: pytest.Session,
        items: list[pytest.Item],
        report: Callable[[str], object],
    ) -> str:
        try:
            apply(mutant)
        except BaseException as error:
            report(repr(error))
            return "killed"
        for item, passed in self.passing(session, items):
            if not passed:
                report(item.nodeid)
                return "killed"
        return "survived"

    def passing(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> Iterator[tuple[pytest.Item, bool]]:
        """Run tests in turn, up to the first failure."""
        # Of no tests there is none that follows.
        for item, following in zip(items, [*items[1:], None], strict=False):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield item, not session.testsfailed
            if session.testsfailed:
                return

    def forked(
        self, work: Callable[[Callable[[str], object]], str], seconds: float
    ) -> tuple[str, str]:
        """Run some work in a fork that gets so many seconds of CPU time: its outcome and report."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            try:
                outcome = work(lambda text: os.write(writing, text.encode()))
            except BaseException as error:
                os.write(writing, repr(error).encode())
                outcome = "killed"
            os._exit(1 if outcome == "survived" else 0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return "timed out", text
        return ("survived" if os.WEXITSTATUS(status) else "killed"), text


def main(names: list[str]) -> None:
    """Try floors (geometry) or modules (losses/epl.py), optionally lines (losses/epl.py:12)."""
    lines: dict[Path, set[int]] = {}
    for argument in names:
        name, _, line = argument.partition(":")
        place = ROOT / "segfix" / name
        for path in [place] if place.is_file() else sorted(place.glob("[a-z]*.py")):
            lines.setdefault(path, set()).update({int(line)} if line else ())
    floors = sorted({path.parent.name for path in lines})
    folders = [str(ROOT / where / floor) for floor in floors for where in ("tests", "segfix")]
    log = Path(os.environ.get("MUTANTS_LOG", "/dev/null"))
    options = ["-q", "-s", "-p", "no:cacheprovider", "-k", "not compiled", "--tb=no", "-rN"]
    sys.exit(pytest.main([*options, *folders], plugins=[Runner(lines, log)]))


if __name__ == "__main__":
    main(sys.argv[1:])
