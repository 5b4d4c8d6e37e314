"""Panels are strict about names and loud about failures."""

import ipywidgets
import pytest

from fapool.errors import RankFailed, SpecError
from widgets.panel import Panel, build


def failing(error):
    def act():
        raise error

    return act


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="colour"):
        build(ipywidgets.Button, description="Run", colour="red")
    with pytest.raises(TypeError):
        Panel(childern=[])


def test_a_panel_may_not_replace_what_every_widget_has():
    with pytest.raises(TypeError, match="open"):

        class Shadow(Panel):
            def open(self):
                pass


def test_a_users_mistake_is_one_line_with_the_way_out():
    panel = Panel()
    panel.loudly(failing(SpecError("plan.pool", 9, "at most 3 <here>")))("the event")
    assert panel.trouble.layout.display != "none"
    assert "plan.pool = 9: at most 3 &lt;here&gt;" in panel.trouble.value
    assert "Traceback" not in panel.trouble.value


def test_a_failed_rank_shows_its_last_lines():
    panel = Panel()
    panel.report(RankFailed(2, "was killed by SIGKILL", "step 17"))
    assert "rank 2 was killed by SIGKILL" in panel.trouble.value
    assert "step 17" in panel.trouble.value


def test_a_defect_shows_its_traceback():
    panel = Panel()
    panel.loudly(failing(KeyError("lost")))()
    assert "Traceback" in panel.trouble.value
    assert "lost" in panel.trouble.value


def test_the_next_act_takes_the_message_away():
    panel = Panel()
    panel.loudly(failing(ValueError("x")))()
    panel.loudly(lambda: None)()
    assert panel.trouble.value == ""
    assert panel.trouble.layout.display == "none"


def test_a_button_passes_its_event_to_nobody():
    seen, panel, button = [], Panel(), ipywidgets.Button()
    button.on_click(panel.loudly(lambda: seen.append("called")))
    button.click()
    assert seen == ["called"]
