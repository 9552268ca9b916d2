"""The report page in a real browser: it plays, switches, fits, and asks for nothing."""

import base64
import json
import time

import pytest

from tests.data.report import RATES
from vlfm.storage.files import read_json

PLAYS = """video => new Promise((done, fail) => {
    const from = video.currentTime, began = performance.now();
    const look = () => {
        if (video.readyState >= 2 && !video.paused && video.currentTime > from) done(video.currentTime);
        else if (video.currentTime < from) done(video.currentTime);  // a new round has begun
        else if (performance.now() - began > 12000) fail(new Error(`stands still at ${video.currentTime}, ready `
            + `${video.readyState}, paused ${video.paused}, ${video.error && video.error.message}`));
        else setTimeout(look, 10);
    };
    look();
})"""
SHOWN = "video => video.dataset.shown"
GENERATED = "name => document.querySelector('#clips figure:nth-child(2) video').dataset.shown === name"


def in_view(page, selector="#clips .films"):
    group = page.locator(selector).first
    group.scroll_into_view_if_needed()
    return group


def wait_for(where, condition, argument=None, seconds=12):
    """Until a script says so. (What playwright has for this needs `eval`, which the page forbids.)"""
    end = time.monotonic() + seconds
    while not where.evaluate(condition, argument):
        assert time.monotonic() < end, f"in vain: {condition}"
        time.sleep(0.02)


def playing(page, selector="#clips .films"):
    """The videos of the first group, playing."""
    videos = in_view(page, selector).locator("video").all()
    for video in videos:
        video.evaluate(PLAYS)
    return videos


def test_chromium_knows_the_videos(open_page):
    page = open_page()
    assert (
        page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64000A\"')") == "probably"
    )


def test_every_video_plays(open_page, report):
    page = open_page()
    videos = page.locator("video").all()
    assert len(videos) == 4 * 2 + 2 * 2 * 2
    for video in videos:
        video.scroll_into_view_if_needed()
        video.evaluate(PLAYS)
        size = video.evaluate("video => [video.videoWidth, video.videoHeight, video.duration]")
        assert size == [48, 48, pytest.approx(0.5, abs=0.02)]


def test_players_are_given_back(open_page):
    """A browser allows a few dozen players: only what is in view, or nearly, has one."""
    page = open_page(viewport={"width": 360, "height": 400})
    assert page.locator("video[src]").count() == 0  # the scores come first
    assert not page.locator("noscript").is_visible()
    for name in ("#clips", "#experiment-order"):
        in_view(page, f"{name} .films")
        playing(page, f"{name} .films")
        page.locator(f"{name} .films video").first.evaluate(PLAYS)
        wait_for(page, "document.querySelectorAll('video[src]').length < 9")
    page.evaluate("scrollTo(0, 0)")
    wait_for(page, "!document.querySelector('video[src]')")


def test_the_switch_changes_every_generated_video(open_page, report):
    page = open_page()
    true, generated = playing(page)
    same = true.evaluate(SHOWN)
    sources = json.loads(generated.get_attribute("data-sources"))
    assert sources.keys() == {str(rate) for rate in RATES}
    assert page.locator("input[name=rate]:checked").get_attribute("value") == "24"
    files = read_json(report.parent / "results" / "eval" / "videos" / "index.json")["clips"][0]["videos"]
    addresses = {generated.get_attribute("src")}
    for rate in ("8", "48", "12", "16"):
        page.locator(f"label:has(> input[value='{rate}'])").click()
        wait_for(page, GENERATED, sources[rate])
        generated.evaluate(PLAYS)
        addresses.add(generated.get_attribute("src"))
        content = base64.b64decode(page.locator(f"#{sources[rate]}").text_content())
        assert content == (report.parent / "results" / "eval" / "videos" / files[rate]).read_bytes()
        assert true.evaluate(SHOWN) == same
    assert len(addresses) == 5
    # The other clips follow when they come into view.
    last = page.locator("#clips .films").last
    last.scroll_into_view_if_needed()
    video = last.locator("video").last
    video.evaluate(PLAYS)
    assert video.evaluate(SHOWN) == json.loads(video.get_attribute("data-sources"))["16"]


def test_play_and_pause_all(open_page):
    page = open_page()
    videos = playing(page)
    button = page.get_by_role("button", name="Pause all")
    button.click()
    for video in videos:
        assert video.evaluate("video => video.paused")
    before = [video.evaluate("video => video.currentTime") for video in videos]
    page.wait_for_timeout(150)
    assert [video.evaluate("video => video.currentTime") for video in videos] == before
    # What comes into view now shows its first frame and waits.
    last = page.locator("#experiments .films").last
    last.scroll_into_view_if_needed()
    wait_for(last.locator("video").first, "video => video.readyState >= 2")
    assert last.locator("video").first.evaluate("video => video.paused && video.currentTime === 0")
    page.get_by_role("button", name="Play all").click()
    last.locator("video").first.evaluate(PLAYS)


def test_one_group_alone(open_page):
    page = open_page()
    first, second = page.locator("#clips .films").all()[:2]
    playing(page)
    title = first.locator("h4").text_content()
    first.get_by_role("button", name=f"Pause: {title}", exact=True).click()
    assert first.locator("video").first.evaluate("video => video.paused")
    second.locator("video").first.evaluate(PLAYS)
    first.locator("video").first.click()
    first.locator("video").first.evaluate(PLAYS)
    page.get_by_role("button", name="Pause all").click()
    second.locator(".hold").click()
    second.locator("video").first.evaluate(PLAYS)
    assert first.locator("video").first.evaluate("video => video.paused")


def test_slow_motion(open_page):
    page = open_page()
    page.locator("#speed").select_option("0.25")
    for video in playing(page):
        assert video.evaluate("video => video.playbackRate") == 0.25
    page.locator("label:has(> input[value='8'])").click()
    for video in playing(page):
        assert video.evaluate("video => video.playbackRate") == 0.25  # a new source keeps it


def test_loop(open_page):
    page = open_page()
    page.locator("#loop").uncheck()
    in_view(page)
    ended = "[...document.querySelectorAll('#clips .films:first-child video')].every(video => video.ended)"
    wait_for(page, ended)
    page.wait_for_timeout(150)
    assert page.evaluate(ended)
    page.locator("#loop").check()
    playing(page)
    wait_for(page, f"!({ended})")


def test_a_round_begins_together(open_page):
    page = open_page()
    page.locator("label:has(> input[value='8'])").click()
    in_view(page)
    apart = """group => new Promise(done => {
        const [a, b] = group.querySelectorAll('video');
        const found = [];
        const look = () => {
            if ([a, b].every(video => !video.ended && video.readyState > 1)) {
                found.push(Math.abs(a.currentTime - b.currentTime));
            }
            if (found.length < 60) requestAnimationFrame(look); else done(found.sort((x, y) => x - y)[30]);
        };
        look();
    })"""
    assert page.locator("#clips .films").first.evaluate(apart) < 0.15  # of 0.5 s, after several rounds


def test_hold_at_an_instant(open_page):
    page = open_page()
    videos = playing(page)
    page.locator("#instant").fill("0.5")
    for video in videos:
        wait_for(video, "video => !video.seeking && video.paused")
        assert video.evaluate("video => video.currentTime") == pytest.approx(0.25, abs=0.01)
    page.locator("label:has(> input[value='8'])").click()
    wait_for(videos[1], "video => video.readyState >= 2 && !video.seeking")
    assert videos[1].evaluate("video => video.currentTime") == pytest.approx(0.25, abs=0.01)
    assert page.locator("#play").text_content() == "Play all"


def test_with_a_keyboard_alone(open_page):
    page = open_page()
    reached, rings = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.name || e.className || e.tagName)(document.activeElement)"))
        rings.append(
            page.evaluate(
                """(e => [e, e.nextElementSibling].filter(x => x).map(x => getComputedStyle(x)).some(
                    look => look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) > 0
                ))(document.activeElement)"""
            )
        )
        if reached[-1] == "rate":
            break
    assert reached[0] == "skip" and reached[-1] == "rate"
    assert all(rings)

    chosen = "document.querySelector('input[name=rate]:checked').value"
    sources = json.loads(page.locator("#clips figure:nth-child(2) video").first.get_attribute("data-sources"))
    for key, rate in (("ArrowRight", "48"), ("ArrowLeft", "24"), ("ArrowUp", "16"), ("ArrowDown", "24")):
        page.keyboard.press(key)
        assert page.evaluate(chosen) == rate
        wait_for(page, GENERATED, sources[rate])

    following = []
    for _ in range(5):
        page.keyboard.press("Tab")
        following.append(page.evaluate("(e => e.id || e.className)(document.activeElement)"))
    assert following == ["play", "speed", "loop", "instant", "hold"]
    page.keyboard.press("Enter")  # the first group's own button
    wait_for(page, "document.querySelector('.films video').paused")
    page.keyboard.press("Space")
    playing(page)


def test_a_table_is_sorted(open_page):
    page = open_page()
    table = page.locator("#experiment-order table")
    cells = "table => [...table.tBodies[0].rows].map(row => row.cells[0].textContent)"

    def sort_by(name):
        # By key: while pictures load, a heading may move away under the mouse.
        table.get_by_role("button", name=name).press("Enter")

    sort_by("PSNR (dB)")
    assert table.evaluate(cells) == ["minterpolate", "hybrid", "linear", "repeat"]
    assert page.locator("#experiment-order th[aria-sort=descending]").count() == 1
    sort_by("PSNR (dB)")
    assert table.evaluate(cells) == ["repeat", "linear", "hybrid", "minterpolate"]
    sort_by("method")
    assert table.evaluate(cells) == ["hybrid", "linear", "minterpolate", "repeat"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1280, 800)])
def test_nothing_sticks_out(open_page, width, height, scheme):
    page = open_page(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=width == 360)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.evaluate("[...document.images].forEach(image => { image.loading = 'eager'; })")
    wait_for(page, "[...document.images].every(image => image.complete)")
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    # Whatever is wider than the page scrolls in a box of its own.
    beyond = page.evaluate(
        """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, .skip, svg')
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page, scheme):
    """Contrast of text and of quiet text with what they stand on: 4.5 (WCAG AA)."""
    page = open_page(color_scheme=scheme)
    ratios = page.evaluate(
        """(() => {
            const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
            const light = colour => {
                const [r, g, b] = colour.match(/[\\d.]+/g).map(v => linear(v / 255));
                return .2126 * r + .7152 * g + .0722 * b;
            };
            const ground = e => {
                for (; e; e = e.parentElement) {
                    const colour = getComputedStyle(e).backgroundColor;
                    if (colour !== 'rgba(0, 0, 0, 0)') return colour;
                }
            };
            const chosen = ['p', 'small', 'figcaption', 'td', 'nav a', 'input:checked + span', '.facts li', '#play'];
            return chosen.map(name => {
                const e = document.querySelector(name);
                const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
                return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            });
        })()"""
    )
    assert min(ratios) >= 4.5, ratios
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")


def test_who_wants_less_motion_gets_none(open_page):
    page = open_page(reduced_motion="reduce")
    in_view(page)
    wait_for(page, "document.querySelector('.films video').readyState >= 2")
    page.wait_for_timeout(200)
    assert page.evaluate(
        "[...document.querySelectorAll('video')].every(video => video.paused && video.currentTime === 0)"
    )
    page.get_by_role("button", name="Play all").click()
    playing(page)


def test_without_scripts_the_page_can_be_read(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("noscript").is_visible()
    assert page.locator("#experiment-order td", has_text="minterpolate").is_visible()
