"""The command line: fast help, the version, and a suggestion after a typing error."""

import subprocess
import sys

import pytest

from multipole_lab import __version__, cli


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"multipole-lab {__version__}\n"


def test_installed_command_answers():
    command = [sys.executable, "-P", "-m", "multipole_lab.cli", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1] == __version__
    )


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_every_command(argv, capsys):
    if argv:
        with pytest.raises(SystemExit, match="0"):
            cli.main(argv)
    else:
        assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert f"multipole-lab {name}" in capsys.readouterr().out


def test_typing_error_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["docter"])
    assert "Did you mean 'doctor'?" in capsys.readouterr().err


def test_unlike_any_command_lists_all(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["xyzzy"])
    assert "Commands: lab, doctor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["bench", "atention"], "'attention'"),
        (["doctor", "--jsn"], "'--json'"),
        (["tune", "--max-eror", "0.1"], "'--max-error'"),
        (["tune", "--max-eror=0.1"], "'--max-error'"),
        (["--versoin"], "'--version'"),
        (["course", "relase"], "'release'"),
        (["kernels", "--dtype", "fp61"], "'fp16'"),
        (["eval", "perplexity", "--metod", "MuSe()"], "'--method'"),
    ],
)
def test_a_misspelt_option_or_choice_gets_a_suggestion(argv, meant, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    said = capsys.readouterr().err
    assert f"Did you mean {meant}?" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_and_every_refusal_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for argv in ([name, "--help"], [name, "--no-such-argument"]):
        with pytest.raises(SystemExit):
            cli.main(argv)
        said = capsys.readouterr()
        assert max(map(len, (said.out + said.err).splitlines())) <= 80


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("multipole_lab.doctor.run", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("gguf", "pip install 'multipole_lab[models]'"),
        ("nbgrader.preprocessors", "pip install 'multipole_lab[course]'"),
        ("sklearn.cluster", "pip install scikit-learn"),
        ("of_a_friend", "multipole-lab doctor"),
    ],
)
def test_a_missing_package_is_no_traceback(module, command, monkeypatch, capsys):
    def broken(args):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("multipole_lab.doctor.run", broken)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"multipole-lab doctor: {module.split('.')[0]} is needed and not installed")
    assert command in said


@pytest.mark.parametrize("argv", [["--help"], ["doctor", "--help"], ["unheard-of"]])
def test_help_imports_nothing_heavy(argv):
    code = (
        "import sys; from multipole_lab import cli\n"
        f"try: cli.main({argv!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'plotly', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
