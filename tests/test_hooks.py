"""The hooks of this repository: the check of commit messages, and what pre-commit runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
HOOK = PROJECT / "hooks" / "commit_message.py"


def check(tmp_path, message):
    """Run the hook as git does; return its exit code and what it printed."""
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    done = subprocess.run([sys.executable, HOOK, file], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "message",
    [
        "bus: import kombu lazily\n",
        "bus: import kombu lazily\n\n`feedbus check` then loads no broker library.\n",
        "# a comment of git's\n\ntests: name the longest tests\n# another\n",
        'Revert "bus: import kombu lazily"\n',
        f"docs: {'x' * 66}\n",
    ],
    ids=["subject", "body", "comments", "revert", "72 characters"],
)
def test_a_commit_message_that_follows_the_rules_is_accepted(tmp_path, message):
    assert check(tmp_path, message) == (0, "")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (f"docs: {'x' * 67}\n", "the subject has 73 characters; expected at most 72"),
        ("Import kombu lazily\n", "the subject does not begin with an area"),
        ("bus: import kombu lazily.\n", "the subject ends with a full stop"),
        ("bus: import kombu\nlazily\n", "the second line is not empty"),
        ("# only a comment\n", "the message is empty"),
    ],
)
def test_a_commit_message_that_breaks_a_rule_is_refused_with_the_reason(tmp_path, message, problem):
    code, printed = check(tmp_path, message)
    assert code == 1
    assert printed.startswith(f"commit message: {problem}")


def test_pre_commit_runs_the_commands_of_make_lint_and_the_check_of_messages():
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    hooks = {hook["entry"]: hook.get("stages", []) for hook in repository["hooks"]}
    assert hooks == {"make lint": [], "python3 hooks/commit_message.py": ["commit-msg"]}
    assert config["default_install_hook_types"] == ["pre-commit", "commit-msg"]


def test_the_workflow_runs_every_supported_python_without_reruns():
    text = (PROJECT / ".github" / "workflows" / "test.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert "FEEDBUS_REQUIRE_SERVERS" in jobs["test"]["env"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert sorted(commands) == ["make check", "make test"]
    for rerun in ("rerun", "retry", "last-failed", "continue-on-error"):
        assert rerun not in text


def test_what_github_reads_follows_its_schemas():
    check = Path(sys.executable).with_name("check-jsonschema")
    forms = sorted((PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    for schema, files in {
        "vendor.github-workflows": [PROJECT / ".github" / "workflows" / "test.yml"],
        "vendor.github-issue-forms": [form for form in forms if form.stem != "config"],
    }.items():
        done = subprocess.run(
            [check, "--builtin-schema", schema, *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
