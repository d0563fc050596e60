"""Two answers side by side on the page."""

import pytest
from browsing import BAD, answered, ask, off


def test_a_blind_choice_by_key_and_taking_it_back(visit, store):
    page = visit("same words", comparison_share=1.0)
    page.select_option("#model", "ppo")
    page.click("#settings-open")
    page.select_option("#other-model", "sft")
    page.click("#settings-close")
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    duel = page.inner_text(".duel").lower()
    assert "ppo" not in duel and "sft" not in duel and "base" not in duel
    page.keyboard.press("2")
    note = page.inner_text(".note")
    assert note.startswith("You chose B.") and "ppo" in note and "sft" in note
    assert store.rows("SELECT winner, blind FROM comparison") == [("right", 1)]
    page.click("text=Take it back")
    page.wait_for_selector("text=The choice is taken back")
    assert store.stats()["comparisons"] == 0 and page.wrong == []


def test_a_choice_that_did_not_reach_the_server_can_be_made_again(visit, store):
    page = visit("one", "two", "three", comparison_share=1.0)
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    page.route("**/api/duels/**", lambda route: route.abort())
    page.click(".choices >> text=B is better")
    page.wait_for_selector("#notice >> text=The server cannot be reached.")
    # Nor is it skipped by the next question, which waits.
    ask(page, "next")
    page.wait_for_selector("#notice >> text=The server cannot be reached.")
    assert page.locator(".pair .answer").count() == 2 and page.input_value("#question") == "next"
    page.unroute("**/api/duels/**")
    page.click(".choices >> text=B is better")
    page.wait_for_selector(".note")
    assert store.rows("SELECT winner, blind FROM comparison") == [("right", 1)]
    assert all("Failed to load" in line for line in page.wrong)


def test_a_choice_that_the_server_has_forgotten_is_told(visit, store):
    page = visit("one", "two", comparison_share=1.0)
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    page.route("**/api/duels/**", lambda route: route.fulfill(status=404, json={"error": {"message": "Not open any more."}}))
    page.click(".choices >> text=A is better")
    page.wait_for_selector("#notice >> text=Not open any more.")
    # Both answers are there all the same.
    assert page.inner_text(".versions") in ("1/2", "2/2") and store.stats()["comparisons"] == 0


def test_two_answers_that_were_stopped_are_not_to_choose_from(visit, store):
    """Nothing would be learned from the choice."""
    page = visit("one HOLD never", "two HOLD never", comparison_share=1.0)
    ask(page)
    for word in ("one", "two"):
        page.wait_for_selector(f".pair .said:has-text('{word}')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".versions")
    assert page.locator(".duel").count() == 0 and "stopped" in page.inner_text(".by")
    assert page.inner_text("#status").startswith("The answer is stopped.")
    page.click(BAD)
    page.wait_for_selector(".reasons")
    assert page.locator("text=Compare with a second answer").count() == 0
    assert store.rows("SELECT finish FROM message WHERE author = 'model'") == [("stopped",)] * 2 and page.wrong == []


def test_a_bad_answer_offers_another_beside_it(visit, store):
    page = visit("one", "two")
    ask(page)
    answered(page)
    page.click(BAD)
    page.click("text=Compare with a second answer")
    page.wait_for_selector(".choices button:not([disabled])")
    page.click(".choices >> text=Both bad")
    page.wait_for_selector(".note")
    assert store.rows("SELECT winner FROM comparison") == [("both_bad",)]
    assert page.wrong == []


@pytest.mark.parametrize("width", [1200, 380])
def test_two_answers_grow_side_by_side_from_their_first_words(visit, width):
    page = visit("one HOLD end", "two HOLD end", comparison_share=1.0, width=width)
    ask(page)
    for word in ("one", "two"):
        page.wait_for_selector(f".pair .said:has-text('{word}')")
    assert page.query_selector(".choices button:not([disabled])") is None
    heading = page.locator(".duel h2").bounding_box()
    assert heading["y"] > 0, "the first of the two has not been carried away"
    page.assistant.release.set()
    page.wait_for_selector(".choices button:not([disabled])")
    assert page.locator(".pair .said:has-text('end')").count() == 2 and page.wrong == []


def test_a_choice_stands_under_the_two_answers_it_was_between_and_under_no_other(visit):
    page = visit("one", "two", "three", comparison_share=1.0)
    ask(page)
    page.wait_for_selector(".choices button:not([disabled])")
    page.click(".choices >> text=B is better")
    assert page.inner_text(".note").startswith("You chose B. Both were ppo. This is B.")
    page.click("#settings-open")
    page.select_option("#compare", "never")
    page.keyboard.press("Escape")
    off(page)
    page.keyboard.press("r")
    page.wait_for_selector(".versions >> text=3/3")
    assert page.locator(".note").count() == 0
    notes = []
    for _ in range(2):
        page.click('[aria-label="Version before"]')
        notes.append(page.inner_text(".note").split("ppo. ")[1])
    assert sorted(note.split(".")[0] for note in notes) == ["This is A", "This is B"]
    page.click(".note button")
    page.wait_for_selector(".note >> text=The choice is taken back.")
    page.reload()
    answered(page)
    assert page.locator(".note").count() == 0 and page.wrong == []
