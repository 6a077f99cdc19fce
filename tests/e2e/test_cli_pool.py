"""Backgrounds on the command line: where they are drawn from, and what is told where there are none."""

from __future__ import annotations

from terminal import FAST, Terminal

import salience

MASK = ("--method", "mask:steps=2:draws=2")


def test_a_pool_of_other_images(terminal: Terminal) -> None:
    run = ("explain", "pictures/ant", "--model", "card.toml", *MASK, "--no-report", *FAST)
    done = terminal.run(*run, "--pool", "pictures/bee", "--pool-size", "3", "--out", "run")
    assert done.code == 0, done.err
    found = salience.open_run(terminal.folder / "run")
    assert found.maps().values.shape == (4, 4, 4)
    assert found.info["settings"]["pool"].endswith("bee")
    assert found.info["settings"]["pool_size"] == 3
    first = found.maps().values.tobytes()
    one = ("explain", "pictures/ant/000.png", *run[2:])
    assert terminal.run(*one, "--pool", "pictures/bee", "--pool-size", "3", "--out", "one").code == 0
    alone = salience.open_run(terminal.folder / "one").maps()
    assert alone.values.shape == (1, 4, 4)
    assert terminal.run(*run, "--out", "run").code == 0  # of the images themselves: computed again
    assert salience.open_run(terminal.folder / "run").maps().values.tobytes() != first


def test_one_image_is_no_pool_of_its_own(terminal: Terminal) -> None:
    done = terminal.run("explain", "pictures/ant/000.png", "--model", "card.toml", *MASK, "--out", "run", *FAST)
    assert done.code == 2
    assert "--pool IMAGES" in done.err
    assert "Traceback" not in done.err
