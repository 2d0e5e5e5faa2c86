"""Command lines of every kind that somebody may type, most of them wrong."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hypothesis import strategies as st

from benchmarks.settings.choices import GROUPS, choices
from benchmarks.settings.composing import compose_run

TASKS = ("sr", "classification", "rl")
KEYS = (
    *("ablation.recipes.0", "ablation.slimmable.distill", "ablation.slimmable.norm", "ablation.slimmable.calibrate"),
    *(
        "task.hyperparameters",
        "task.hyperparameters.policy_kwargs",
        "task.hyperparameters.learning_rate",
        "task.options",
    ),
    *("data.options", "data.widths", "data.switches", "data.algorithms.ppo.hyperparameters.n_steps", "scale.sr.x.y"),
    *("hydra.run.dir", "hydra/launcher", "hydra.mode", "hydra.sweep.dir", "hydra", "hydra.job.chdir", "defaults"),
    *("_target_", "task._target_", "ablation.recipes.0._target_", "task@data", "data@task.x", "_self_", ".", "a..b"),
    *("stepz", "tasks", "task.", "TASK", "0", "steps.0", "seeds.0", "results.x", "task.widths.0", "task/sr", "été"),
)
WORDS = (
    *("", "null", "true", "nan", "inf", "-inf", "0", "-1", "1", "7", "0.5", "1.0", "2", "1e400", "9" * 40),
    *(
        "???",
        "''",
        '""',
        "' '",
        "'it\\'s'",
        '"a',
        "a b",
        "a:b",
        "a=b",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        "\\",
        "$",
        "%",
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{a:{b:[1]}}",
        "{1:2,a:3}",
        "[null]",
        "[1,[2]]",
        "[0.25,1.0]",
        "[1,1]",
        "[nan]",
        "1,2",
    ),
    *("${steps}", "${seeds}", "${task}", "${task.name}", "${nothing}", "${", "${}", "${${steps}}", "x${steps}", "${.}"),
    *("${oc.env:HOME}", "${oc.env:NO_SUCH_VARIABLE}", "${oc.env:X,${oc.env:Y}}", "${oc.decode:'['}", "${oc.select:x}"),
    *("${hydra:runtime.cwd}", "${now:%Y}", "${oc.create:[1]}", "${oc.dict.keys:task}", "${oc.deprecated:steps}"),
    *("choice(a,b)", "range(1,3)", "glob(*)", "interval(0,1)", "sort(3,1)", "shuffle(1,2)", "int(x)", "str([1])"),
    *("float(1)", "bool(2)", "json_str(1)", "extend_list(1)", "tag(a,b)", "f(x)"),
    *(
        "sr",
        "rl",
        "classification",
        "sandwich",
        "tiny",
        "paper",
        "joblib",
        "always",
        "cuda",
        "float16",
        "group",
        "every",
    ),
    *(
        "~nobody_of_that_name/x",
        "../../up",
        "/nothing/there",
        "results",
        "é",
        "日本",
        "\u202e",
        "a\tb",
        "a\nb",
        "\x00",
        "\ud800",
    ),
)
BARE = (
    *("--multirun", "-m", "--config-dir=/tmp", "-cd", "--config-name=x", "--info", "--cfg=job", "--hydra-help", "-h=1"),
    *(
        "--resolve",
        "--package=x",
        "--version",
        "--",
        "-",
        "",
        " ",
        "=",
        "==",
        "=1",
        "just words",
        "steps",
        "~",
        "~steps",
    ),
    *(
        "~task",
        "~task.model",
        "~steps=1",
        "+",
        "++",
        "+steps",
        "++steps",
        "@",
        "task=",
        "+task=sr",
        "++task=rl",
        "\x00",
    ),
)

words = st.sampled_from(WORDS)
endless = st.builds(
    lambda part, end, count: part * count + end * count,
    st.sampled_from("[9a$"),
    st.sampled_from(("", "]")),
    st.sampled_from((300, 5000)),
)
numbers = st.one_of(st.integers().map(str), st.floats().map(repr))
letters = st.text(string.ascii_letters + string.digits + "${}[](),:='\"\\._-+~@/ *\t\n", max_size=20)
anything = st.text(max_size=12)
simple = st.one_of(words, words, numbers, letters, anything)
nested = st.one_of(
    st.lists(simple, max_size=4).map(lambda parts: f"[{','.join(parts)}]"),
    st.lists(st.tuples(simple, simple), max_size=3).map(lambda pairs: "{" + ",".join(map(":".join, pairs)) + "}"),
    st.tuples(st.sampled_from(("'", '"', "${", "choice(")), simple, st.sampled_from(("'", '"', "}", ")", ""))).map(
        "".join
    ),
)
values = st.one_of(words, simple, nested, nested, endless).filter(
    lambda text: text.strip("'\"[]{}/. ") or "/" not in text
)
prefixes = st.sampled_from(("", "", "", "", "", "", "+", "++", "~"))
strange = st.builds("{}{}={}".format, prefixes, st.one_of(st.sampled_from((*KEYS, *GROUPS)), letters), values)
chosen = st.sampled_from(("ablation", "scale", "launcher", "tracker")).flatmap(
    lambda group: st.sampled_from([f"{group}={choice}" for choice in choices(group)])
)


@cache
def keys_of(task: str) -> list[str]:
    """Every key of a task's settings, dotted."""
    return list(_dotted(compose_run([f"task={task}"])))


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A task, perhaps a sound choice, and one to three arguments of which most are wrong."""
    task = draw(st.sampled_from(TASKS))
    known = st.builds("{}{}={}".format, prefixes, st.sampled_from(keys_of(task)), values)
    odd = st.one_of(known, known, known, known, strange, st.sampled_from(BARE), letters)
    sound = draw(st.lists(chosen, max_size=1)) + (["data.root=here"] if draw(st.booleans()) and task != "rl" else [])
    return [f"task={task}", *sound, *draw(st.lists(odd, min_size=1, max_size=draw(st.sampled_from((1, 1, 3)))))]
