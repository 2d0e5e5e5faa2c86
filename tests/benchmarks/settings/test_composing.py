"""Every combination of settings composes; everything misspelt is refused in one line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.run import main
from benchmarks.running.jobs import plan
from benchmarks.settings.choices import CONF, GROUPS, choices, content
from benchmarks.settings.composing import compose_run
from benchmarks.settings.groups import SWITCHES
from benchmarks.settings.overrides import parse
from benchmarks.settings.run import RunSettings, read_recipes, read_settings
from slimlib import Sandwich
from tasks.rl.settings import RlSettings


def places(task: str, scale: str, folder: Path) -> list[str]:
    """What a command has to say of files."""
    weights = ["task.weights=s_resnet50.pt"] if (task, scale) == ("detection", "paper") else []
    needs_none = content("scale", scale)[task]["data"] in ("digits", "photos", "shapes", "cartpole")
    return [*weights, *([] if needs_none else [f"data.root={folder}"])]


@pytest.mark.parametrize("scale", choices("scale"))
@pytest.mark.parametrize("ablation", choices("ablation"))
@pytest.mark.parametrize("task", choices("task"))
def test_every_task_ablation_and_scale_composes(task: str, ablation: str, scale: str, tmp_path: Path) -> None:
    place = places(task, scale, tmp_path)
    if task not in (content("ablation", ablation).get("tasks", [task])):
        with pytest.raises(ValueError, match=f"ablation={ablation} has no meaning for task={task}; it is for "):
            read_settings([f"task={task}", f"ablation={ablation}", f"scale={scale}", *place])
        return
    settings = read_settings([f"task={task}", f"ablation={ablation}", f"scale={scale}", *place])
    assert (settings.task, settings.ablation, settings.scale) == (task, ablation, scale)
    assert settings.data == settings.default_data
    assert settings.folder == Path("results") / task / ablation / scale
    assert len(settings.recipes) >= 3


@pytest.mark.parametrize("data", choices("data"))
@pytest.mark.parametrize("launcher", choices("launcher"))
def test_every_data_and_launcher_composes(data: str, launcher: str, tmp_path: Path) -> None:
    about = content("data", data)
    task = about["tasks"][0]
    place = [f"data.root={tmp_path}"] if about.get("root") == "???" else []
    place += ["data.environment=CartPole-v1"] if data == "environment" else []
    place += ["launcher.cluster=local"] if launcher == "slurm" else []
    settings = read_settings([f"task={task}", f"data={data}", f"launcher={launcher}", *place])
    assert (settings.data, settings.launcher.name) == (data, launcher)
    deeper = () if data in ("photos", "digits", "shapes", "cartpole") else (data,)
    assert settings.folder == Path(f"results/{task}/sandwich/tiny").joinpath(*deeper)


def test_data_of_another_task_are_refused() -> None:
    with pytest.raises(
        ValueError, match="data=digits is for task=classification; task=sr takes benchmark, folder, photos"
    ):
        read_settings(["task=sr", "data=digits"])


def test_the_defaults_are_the_readme_s() -> None:
    settings = read_settings([])
    assert (settings.task, settings.ablation, settings.scale, settings.data) == ("sr", "sandwich", "tiny", "photos")
    assert settings.launcher.name == "serial" and settings.tracker.name == "tensorboard"
    assert settings.overwrite == "only-missing"


def test_overrides_arrive() -> None:
    given = "steps=7 seeds=[3,1] overwrite=always results=/tmp/x device=cpu threads=2 task.blocks=5 smallest=0.5"
    settings = read_settings(given.split())
    assert (settings.steps, settings.seeds, settings.overwrite, settings.threads) == (7, (3, 1), "always", 2)
    assert settings.folder == Path("/tmp/x/sr/sandwich/tiny")
    assert settings.task_settings["blocks"] == 5
    assert settings.recipes[-1].range == (0.5, 1.0)


def test_the_ablations_hold_the_recipes_that_they_promise() -> None:
    shared = ("sandwich", "distillation", "switches", "samples")
    named = {a: [r.name for r in read_settings([f"ablation={a}"]).recipes] for a in shared}
    assert named["sandwich"] == ["individual", "random", "smallest+random", "largest+random", "sandwich"]
    assert named["distillation"] == [
        *("individual", "none", "none, mean over widths"),
        *("l1", "l1, balanced", "data + l1", "l1, balanced, EMA teacher"),
        *("mse", "mse, balanced", "data + mse", "l1, weight 0.1", "mse, weight 10"),
        "none, balanced",
    ]
    switches = ["2 switches", "4 switches", "8 switches", "universal", "incremental", "incremental, equal steps"]
    assert named["switches"] == ["individual", *switches]
    assert named["samples"] == ["individual", "n=2", "n=3", "n=4", "n=6"]
    sandwich = {r.name: r for r in read_settings([]).recipes}
    assert isinstance(sandwich["sandwich"].make_rule(0), Sandwich)


def test_tuned_recipes_are_rows_of_their_own_after_the_others() -> None:
    plain = read_settings(["ablation=samples"])
    tuned = read_settings(["ablation=samples", "tune={lr: [0.001, 0.002]}", "tune_seeds=2"])
    names = [recipe.name for recipe in plain.recipes]
    assert [recipe.name for recipe in tuned.recipes] == [*names, *(f"{name}, tuned" for name in names)]
    assert [tuned.hash_of(r) for r in tuned.recipes[: len(names)]] == [plain.hash_of(r) for r in plain.recipes]
    assert len({tuned.hash_of(recipe) for recipe in tuned.recipes}) == 2 * len(names)
    (one,) = read_settings(["ablation=samples", "tune.lr=[0.001,0.002]", 'only=["n=2, tuned"]']).recipes
    assert one.tune == {"lr": (0.001, 0.002)}
    with pytest.raises(ValueError, match="unknown hyperparameter to tune 'rate'"):
        read_settings(["tune={rate: [0.1, 0.2]}"])
    with pytest.raises(ValueError, match="lr=2.0"):
        read_settings(["tune={lr: [0.1, 2.0]}"])


def test_the_same_recipe_has_the_same_hash_in_every_ablation() -> None:
    def hash_of(ablation: str, recipe: str) -> str:
        settings = read_settings([f"ablation={ablation}"])
        return settings.hash_of(next(r for r in settings.recipes if r.name == recipe))

    shared = [
        ("sandwich", "sandwich"),
        ("distillation", "none"),
        ("switches", "universal"),
        ("samples", "n=4"),
        ("range", "from 0.25"),
    ]
    assert len({hash_of(*place) for place in shared}) == 1


@pytest.mark.parametrize("group", ["data", "scale", "ablation"])
def test_every_file_opens_with_its_question(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        assert path.read_text().startswith("about: " if group == "data" else "question: "), path
        assert content(group, path.stem)["name"] == path.stem


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("ablation=sandwitch", "unknown ablation 'sandwitch'; did you mean 'sandwich'?"),
        ("task=srr", "unknown task 'srr'; "),
        ("scale=smal", "did you mean 'small'?"),
        ("data=photo", "did you mean 'photos'?"),
        ("launcher=sluurm", "unknown launcher 'sluurm'; did you mean 'slurm'?"),
        ("stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("abl=x", "unknown key 'abl'; did you mean 'ablation'?"),
        ("task.blokcs=3", "unknown key 'task.blokcs'; did you mean 'task.blocks'?"),
        ("nothing.like.this=3", "unknown key 'nothing.like.this'; choose one of"),
        ("+task.blokcs=3", "unknown key 'task.blokcs'; did you mean 'task.blocks'?"),
        ("+ablation.slimmable.sampels=3", "unknown key of a recipe 'sampels'; did you mean 'samples'?"),
        ("+ablation.recipe=[]", "unknown key 'ablation.recipe'; did you mean 'ablation.recipes'?"),
        ("task.model=wdsr-c", "did you mean 'wdsr-"),
        ("steps=0", "steps=0 must be a whole number, at least 1"),
        ("steps=many", "steps='many' must be a whole number"),
        ("seeds=[]", "seeds=[] must be a list (at least one, "),
        ("seeds=[0,0]", "each only once"),
        ("seeds=one", "seeds='one' must be a list (at least one, each a whole number"),
        ("seeds=0,1", "'seeds=0,1' is several runs"),
        ("overwrite=yes", "unknown overwrite 'yes'; choose one of only-missing, always, never"),
        ("overwrite=allways", "did you mean 'always'?"),
        ("device=gpu", "unknown device 'gpu'"),
        ("threads=0", "threads=0 must be"),
        ("precision=half", "unknown precision 'half'"),
        ("ablation=norm", "ablation=norm has no meaning for task=sr; it is for classification"),
        ("launcher.jobs=0", "launcher.jobs=0 must be 1"),
        ("checkpoint_seconds=soon", "checkpoint_seconds='soon' must be a number"),
        ("smallest=0", "smallest=0 must be a number above 0 and at most 1"),
        ("smallest=2", "smallest=2 must be a number above 0"),
        ("data=folder", "data=folder needs data.root=<a value>"),
        ("scale=small", "data=benchmark needs data.root=<a value>"),
        ("just words", "cannot read 'just words'"),
        ("~task", "keys cannot be removed"),
        ("steps=${nothing}", "nothing"),
        ("task.widths=[0.5,2]", "task.widths=2 must be a number above 0"),
        ("+stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("++hydra.run.dir=/tmp", "unknown key 'hydra.run.dir'; choose one of steps"),
        ("+data.trian_sets=[a]", "unknown key 'data.trian_sets'; did you mean 'data.train_sets'?"),
        ("+scale.sr.stepz=3", "unknown key 'scale.sr.stepz'; did you mean 'scale.sr.steps'?"),
        ("+task._target_=os.system", "unknown key 'task._target_'"),
        ("scale.question=what", "unknown key 'scale.question'; did you mean 'scale."),
        ("scale.classification.batch=3", "unknown key 'scale.classification.batch'; did you mean 'scale.sr.batch'?"),
        ("+scale.sr.switches={tow: [1.0]}", "unknown key 'switches.tow'; did you mean 'switches.two'?"),
        ("switches={tow: [1.0]}", "unknown key 'switches.tow'; did you mean 'switches.two'?"),
        ("switches.tow=[1.0]", "unknown key 'switches.tow'; did you mean 'switches.two'?"),
        ("+data.steps.tinny=5", "unknown key 'data.steps.tinny'; did you mean 'data.steps.tiny'?"),
        ("+data.steps={tinny: 5}", "unknown key 'data.steps.tinny'; did you mean 'data.steps.tiny'?"),
        ("+data.steps.tiny.x=5", "steps={'x': 5} must be a whole number"),
        ("+data.algorithms.ppo.gae=1", "data.algorithms has no meaning for task=sr"),
        ("task.name=rl", "task.name belongs to task=<name>, and cannot be changed"),
        ("ablation.name=../up", "ablation.name belongs to ablation=<name>, and cannot be changed"),
        ("data.tasks=[rl]", "data.tasks belongs to data=<name>, and cannot be changed"),
        ("++task=rl", "'++task=rl': a choice is written task=<its name>"),
        ("task@data=sr", "'task@data=sr': a choice is written task=<its name>"),
        ("task=a\nb", "cannot read 'task=a b'; write key=value"),
        ("task=[sr]", "unknown task '['sr']'"),
        ("scale.sr=5", "scale.sr=5 must be keys and values"),
        ("steps=${steps}", "Recursive interpolation detected"),
        ("steps=" + "[" * 5000, "cannot read 'steps=[["),
        ("steps=" + "[" * 5000 + "]" * 5000, "the settings are nested too deep, or refer to themselves"),
        ("steps=" + "a" * 5000, "a ... a"),
        ("seeds=[[]]", "seeds=[] must be a whole number, at least 0"),
        ("results=null", "results=None must be a folder, for example results"),
        ("results=[a]", "results=['a'] must be a folder"),
        ("task.root=5", "data.root=5 must be text; in quotes it is: 'data.root=\"5\"'"),
        ("task.train_sets=[5]", "data.train_sets=5 must be text"),
        ("ablation.slimmable={1: 2}", "ablation.slimmable: the key 1 must be a word; '1' in quotes is one"),
        ("ablation.recipes=5", "ablation.recipes=5 must be a list"),
        (
            "ablation.recipes=[5]",
            "ablation.recipes=5 must be keys and values",
        ),
        ("ablation.slimmable=5", "ablation.slimmable=5 must be keys and values, for example {rule: sandwich}"),
        ("--multirun", "cannot read '--multirun'; write key=value"),
        ("--config-dir=/tmp", "cannot read '--config-dir=/tmp'; write key=value"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(argument: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_a_group_is_chosen_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=sr", "task=rl"]) == 2
    assert capsys.readouterr().err == "error: task is chosen 2 times; a run has one task\n"


def test_recipes_with_commas_are_listed_as_only_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablation=distillation", "only=[nothing at all]"]) == 2
    assert 'one of individual, none, "none, mean over widths", l1, "l1, balanced"' in capsys.readouterr().err


def test_the_trace_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="unknown key"):
        main(["stepz=3"])


def test_help_lists_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for group in GROUPS:
        assert all(choice in shown for choice in choices(group))


def test_equal_recipes_in_one_ablation_are_refused() -> None:
    recipes = [{"name": n, "range": [0.5, 1.0], "rule": "sandwich", "samples": 4} for n in ("a", "b")]
    given = read_recipes({"name": "x", "question": "Why?", "recipes": recipes}, "sr")
    names = dict.fromkeys(("data", "default_data", "ablation", "question", "scale"), "x") | {"task": "sr"}
    with pytest.raises(ValueError, match="recipes 'a' and 'b' are the same"):
        RunSettings(**names, recipes=given, steps=1, seeds=[0], task_settings={})


@pytest.mark.parametrize("where", [{"tasks": ["srr"]}, {"scales": ["tinny"]}, {"tasks": "sr"}])
def test_a_recipe_for_a_task_or_scale_that_does_not_exist_is_refused(where: dict[str, object]) -> None:
    recipe = {"name": "a", "kind": "individual"}
    with pytest.raises(ValueError, match="unknown (task|scale) '"):
        read_recipes({"name": "x", "question": "Why?", "recipes": [recipe | where]}, "sr", "tiny")
    with pytest.raises(ValueError, match="unknown task 'srr'; did you mean 'sr'"):
        read_recipes({"name": "x", "question": "Why?", "recipes": [recipe], "tasks": ["sr", "srr"]}, "sr")


def test_an_ablation_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="must open with the question"):
        read_recipes({"name": "x", "question": " ", "recipes": []}, "sr")


def test_what_recipes_share_at_a_scale_is_for_that_scale_and_task_alone() -> None:
    slimmable = {"range": [0.25, 1.0], "rule": "sandwich"}
    of_task = {name: {"distill": "mse", "weight": 0.5} for name in ("sr", "classification")}
    of_scale = {"small": {"sr": {"distill": "l1", "weight": None}}}
    recipes = [{"name": "one"}, {"name": "own", "distill": "mse"}, {"name": "plain", "kind": "individual"}]
    given = {"name": "x", "question": "Why?", "slimmable": slimmable, "of_task": of_task, "of_scale": of_scale}
    given |= {"recipes": recipes}

    one, own, _ = read_recipes(given, "sr", "small")
    assert (one.distill, one.lesson, own.distill) == ("l1", {}, "mse")
    for elsewhere in (read_recipes(given, "sr", "tiny"), read_recipes(given, "sr")):
        assert (elsewhere[0].distill, elsewhere[0].lesson) == ("mse", {"weight": 0.5})
    for scale, task, named in (("smal", "sr", "small"), ("small", "srr", "sr")):
        with pytest.raises(ValueError, match=named):
            read_recipes(given | {"of_scale": {scale: {task: {}}}}, "sr", "small")


def test_a_recipe_has_the_place_in_tables_that_it_has_in_its_ablation() -> None:
    words = ["task=sr", "ablation=sandwich"]
    every = {job.recipe.name: job.position for job in plan(read_settings(words))}
    some = {job.recipe.name: job.position for job in plan(read_settings([*words, "only=[random,sandwich]"]))}
    assert list(every.values()) == list(range(len(every)))
    assert some == {name: every[name] for name in ("random", "sandwich")}


def test_plans_are_searched_at_small_in_the_network_that_has_a_width_for_each_input() -> None:
    def read(ablation: str) -> RunSettings:
        return read_settings(["task=classification", f"ablation={ablation}", "scale=small", "data.root=."])

    search, dynamic = read("search"), read("dynamic")
    firsts = {search.first_hash_of(recipe) for recipe in search.recipes if recipe.search is not None}
    trained = {dynamic.training_hash_of(r) for r in dynamic.recipes if r.per_input is not None and r.stem is None}
    assert firsts == trained


@pytest.mark.parametrize(
    ("given", "key", "found"),
    [
        ("data.root=~/pictures", "root", f"{Path.home()}/pictures"),
        ("data.eval_sets=[~/a,~/b]", "eval_sets", [f"{Path.home()}/a", f"{Path.home()}/b"]),
    ],
)
def test_paths_below_the_home_folder_are_understood(given: str, key: str, found: object) -> None:
    settings = compose_run(["task=sr", "data=folder", "data.root=there", given])
    assert settings["task"][key] == found


TEXTS = st.text("ab \\\"'=,#[](){}:;/\u00e9", max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.one_of(TEXTS, st.sampled_from(["/a=b", "/images, raw", "/a#b", "/a[1]", "/it's"])))
def test_text_that_hydra_reads_as_more_is_shown_in_quotes(path: str) -> None:
    try:
        parse(f"data.root={path}", {"data.root": False})
    except ValueError as error:
        (quoted,) = shlex.split(str(error).rpartition("in quotes: ")[2])
        assert parse(quoted, {"data.root": False}).value() == path


@pytest.mark.parametrize("key", ["data.root", "results"])
@pytest.mark.parametrize("path", ["/images, raw", "/a=b", "[raw]", "2024"])
def test_text_in_quotes_arrives(path: str, key: str) -> None:
    given = ["task=classification", "data=imagenet", "data.root=there"]
    with pytest.raises(ValueError, match="in quotes") as error:
        read_settings([*given, f"{key}={path}"])
    words = shlex.split(str(error.value).partition("in quotes")[2])
    found = read_settings([*given, next(word for word in words if word.startswith(f"{key}="))])
    assert {"data.root": found.task_settings["root"], "results": str(found.results)}[key] == path


def test_lists_of_text_are_shown_in_quotes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"""'data.eval_sets=\["/a=b","/c"\]'"""):
        read_settings(["data=folder", f"data.root={tmp_path}", "data.eval_sets=[/a=b, /c]"])
    with pytest.raises(ValueError, match=r"a list is written seeds=\[...\]"):
        read_settings(["seeds=0,1"])


def test_what_the_command_line_says_comes_before_data_scale_and_default() -> None:
    def episodes(*given: str) -> object:
        return read_settings(["task=rl", *given]).task_settings["episodes"]

    assert episodes() == 50 and episodes("scale=paper") == RlSettings.model_fields["episodes"].default == 100
    assert episodes("scale.rl.episodes=7") == 7
    assert episodes("scale.rl.episodes=7", "data.episodes=8") == 8
    assert episodes("scale.rl.episodes=7", "data.episodes=8", "task.episodes=9") == 9
    assert read_settings(["task=rl", "data=pong"]).task_settings["widths"] == (0.25, 0.5, 1.0)


def test_hyperparameters_are_those_of_the_algorithm_and_can_be_changed_one_by_one() -> None:
    def given(*arguments: str) -> object:
        return read_settings(["task=rl", *arguments]).task_settings["hyperparameters"]

    tuned = content("data", "cartpole")["algorithms"]
    assert given("task.algorithm=dqn") == tuned["dqn"]["hyperparameters"]
    assert given("task.hyperparameters.gamma=0.5") == tuned["ppo"]["hyperparameters"] | {"gamma": 0.5}
    assert given("task.hyperparameters={gamma: 0.5}") == {"gamma": 0.5}
    with pytest.raises(ValueError, match="'data.algorithms.ppo.gamma'; choose one of"):
        given("data.algorithms.ppo.gamma=0.5")
    with pytest.raises(ValueError, match="'data.algorithms.pp'; did you mean 'data.algorithms.ppo'"):
        given("data.algorithms.pp.environments=5")
    with pytest.raises(ValueError, match="did you mean 'data.algorithms.dqn.frame_stack'"):
        given("data.algorithms.dqn.frame_stak=5")


def test_lists_of_switches_have_names() -> None:
    def widths(*given: str) -> list[tuple[float, ...] | None]:
        return [recipe.switches for recipe in read_settings(["ablation=switches", *given]).recipes[1:3]]

    assert widths() == widths("switches=quarters") == [SWITCHES["quarters"]["two"], SWITCHES["quarters"]["four"]]
    assert widths("task=rl") == widths("switches=sixteenths")
    assert widths("task=rl", "data=pong") == widths()

    assert widths("switches.four=[0.5,1.0]") == [(0.25, 1.0), (0.5, 1.0)]
    with pytest.raises(ValueError, match="unknown switches 'quarter'; did you mean 'quarters'"):
        widths("switches=quarter")


def test_data_can_say_what_they_share_with_others_once() -> None:
    breakout, pong = content("data", "breakout"), content("data", "pong")
    own = ("about", "name", "environment")
    assert {key for key in breakout if breakout[key] != pong[key]} == set(own) and "like" not in pong


def test_a_list_of_switches_that_a_recipe_reads_may_have_any_name() -> None:
    recipe = "{name: mine, range: null, samples: 2, switches: ${switches.mine}, rule: sandwich, norm: switchable}"
    given = [f"ablation.recipes=[{recipe}]", "+switches.mine=[0.5,1.0]"]
    assert [recipe.switches for recipe in read_settings(given).recipes] == [(0.5, 1.0)]
    with pytest.raises(ValueError, match="unknown key 'switches.mien'; did you mean 'switches.mine'"):
        read_settings([*given, "+switches.mien=[0.5,1.0]"])
