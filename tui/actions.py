"""Every action of the screen in one table: bindings, footer, help and palette are all made from it.

An action's `verb` is the Textual action it calls, on the screen for the group "anywhere" and on the focused pane
otherwise. Keys are those that plain SSH and tmux let through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding

Group = Literal["anywhere", "prompt", "tokens", "features", "card", "circuit", "steering", "studies", "study"]

GROUPS: dict[Group, str] = {
    "anywhere": "Anywhere (outside a text field)",
    "prompt": "1 Prompt",
    "tokens": "2 Tokens",
    "features": "3 Features",
    "card": "4 Card",
    "circuit": "5 Circuit",
    "steering": "6 Steering",
    "studies": "7 Studies: the page of all",
    "study": "7 Studies: the page of a result",
}


@dataclass(frozen=True)
class Action:
    """One thing a user can do."""

    id: str
    keys: str
    verb: str
    label: str
    """One or two words, for the footer."""
    help: str
    """One line, for help and palette."""
    group: Group = "anywhere"
    palette: bool = True
    priority: bool = False

    @property
    def moves_focus(self) -> bool:
        """Whether what is typed next is meant for another widget."""
        return self.id in _MOVING


_MOVING = frozenset({
    "pane.prompt", "pane.tokens", "pane.features", "pane.card", "pane.circuit", "pane.steering", "pane.studies", "features.filter",
    "feature.steer", "feature.steer_marked", "feature.try", "feature.label", "labels.find", "labels.like", "session.import",
    "circuit.trace", "circuit.explain", "circuit.name", "circuit.group", "steering.add", "steering.number",
    "steering.type_positions", "steering.settings", "steering.save_preset",
})  # fmt: skip


def _moves(group: Group, what: str, *, sideways: bool = False) -> tuple[Action, ...]:
    """The movements every list and page has."""
    up, down = ("up,k", "down,j")
    moves = [
        Action(f"{group}.up", up, "move(-1)", "up", f"Up in {what}", group, palette=False),
        Action(f"{group}.down", down, "move(1)", "down", f"Down in {what}", group, palette=False),
        Action(
            f"{group}.page_up",
            "pageup,ctrl+u",
            "page(-1)",
            "page up",
            f"A page up in {what}",
            group,
            palette=False,
        ),
        Action(
            f"{group}.page_down",
            "pagedown,ctrl+d",
            "page(1)",
            "page down",
            f"A page down in {what}",
            group,
            palette=False,
        ),
        Action(f"{group}.home", "home,g", "end(False)", "first", f"First of {what}", group, palette=False),
        Action(f"{group}.end", "end,G", "end(True)", "last", f"Last of {what}", group, palette=False),
    ]
    if sideways:
        moves += [
            Action(f"{group}.left", "left,h", "sideways(-1)", "left", "The token before", group, palette=False),
            Action(f"{group}.right", "right,l", "sideways(1)", "right", "The next token", group, palette=False),
        ]
    return tuple(moves)


ACTIONS: tuple[Action, ...] = (
    Action("pane.prompt", "1,i", "pane('prompt')", "prompt", "Go to the prompt"),
    Action("pane.tokens", "2", "pane('tokens')", "tokens", "Go to the tokens"),
    Action("pane.features", "3", "pane('features')", "features", "Go to the features"),
    Action("pane.card", "4", "pane('card')", "card", "Go to the feature card"),
    Action("pane.circuit", "5", "pane('circuit')", "circuit", "Go to the circuit"),
    Action("pane.steering", "6", "pane('steering')", "steering", "Go to steering"),
    Action("pane.studies", "7", "studies", "studies", "Go to the studies: analyses over prompts and text, and their results"),
    Action("pane.next", "tab", "next_pane(1)", "next pane", "Go to the next pane", palette=False, priority=True),
    Action("pane.previous", "shift+tab", "next_pane(-1)", "pane before", "Go to the pane before", palette=False, priority=True),
    Action("view.zoom", "+", "zoom", "zoom", "Give the focused pane the whole screen, and back"),
    Action("view.back", "escape", "back", "back", "Back out: close, unzoom, or stop what runs", palette=False),
    Action("token.next", "}", "token(1)", "next token", "Next token, from any pane"),
    Action("token.previous", "{", "token(-1)", "token before", "The token before, from any pane"),
    Action("feature.next", "J", "feature(1)", "next feature", "Next feature of the list, from any pane"),
    Action("feature.previous", "K", "feature(-1)", "feature before", "The feature before, from any pane"),
    Action("site.next", "]", "site(1)", "next site", "Show only the next site; after the last, all"),
    Action("site.previous", "[", "site(-1)", "site before", "Show only the site before"),
    Action("run.older", "(", "run(-1)", "older run", "Show the run before this one"),
    Action("run.newer", ")", "run(1)", "newer run", "Show the run after this one"),
    Action("feature.mark", "space", "mark", "mark", "Mark the selected feature, or unmark it: marks feed the quicklist"),
    Action("feature.steer", "s", "steer", "steer", "Take the selected feature into steering"),
    Action("feature.steer_marked", "S", "steer_marked", "steer marked", "Take all marked features into steering"),
    Action("circuit.trace", "c", "trace", "trace", "Trace what the next token of the shown run comes from, in pane 5"),
    Action("feature.copy_link", "y", "copy_link", "copy link", "Copy the selected feature's link or name to your terminal's clipboard"),
    Action("feature.clear", "u", "clear_feature", "all features", "Select no feature: tokens show how strongly anything fires"),
    Action("tokens.strength_bars", "b", "bars", "bars", "Show activations as bars under the tokens too"),
    Action("prompt.chat", "ctrl+t", "chat", "chat", "Wrap the prompt in the model's chat template, or not"),
    Action("session.resume", "U", "resume", "resume", "Open the last session that was not closed in good order"),
    Action("feature.try", "Y", "try_it", "try it", "Edit a text and watch the selected feature follow"),
    Action("feature.label", "N", "label", "label", "Give the selected feature a label of your own, kept on this machine"),
    Action("labels.find", "B", "labels", "browse labels", "Find features of the open dictionaries by what their labels say"),
    Action("labels.like", "tilde", "labels_like", "labels like it", "Find labels like the selected feature's"),
    Action("session.import", "X", "import_marks", "import quicklist", "Mark the features of a Neuronpedia quicklist, pasted as an address"),
    Action("session.numbers", "M", "numbers", "model", "What is open, and how its numbers are made: formula, hook, BOS, dtype, memory"),
    Action("session.export", "x", "export", "quicklist", "Show the Neuronpedia quicklist of the marked features"),
    Action("help.log", "E", "log", "log", "What happened in this session"),
    Action("help.error", "e", "explain", "details", "The long story of the last error"),
    Action("help.keys", "?", "help", "help", "Keys, with those of the focused pane first"),
    Action("help.palette", ":", "app.command_palette", "command", "Find any action by name (also ctrl+p)", palette=False),
    Action("app.quit", "q,ctrl+q", "app.quit", "quit", "Save the session and leave"),
    Action("prompt.run", "enter", "submit", "run", "Run the prompt", "prompt", palette=False),
    Action("prompt.newline", "ctrl+j", "newline", "new line", "A new line in the prompt", "prompt", palette=False),
    Action("prompt.older", "ctrl+up", "history(-1)", "older", "The prompt before, as does Up on the first line", "prompt", palette=False),
    Action("prompt.newer", "ctrl+down", "history(1)", "newer", "The prompt after, as does Down on the last line", "prompt", palette=False),
    Action("prompt.clear", "ctrl+g", "clear", "clear", "Empty the prompt", "prompt", palette=False),
    *_moves("tokens", "the tokens", sideways=True),
    Action("tokens.scope", "t", "scope", "this token", "List the features of the token under the cursor, or of the whole prompt"),
    *_moves("features", "the list"),
    Action("features.filter", "/", "filter", "filter", "Filter the list by typing"),
    Action("features.order", "o", "order", "order", "Order by activation, share of the site's strongest, source, position"),
    Action("features.rank", "R", "rank", "rank", "Rank by maximum, sum or mean over the prompt"),
    Action("features.card", "enter,right,l", "open_card", "card", "Go to the selected feature's card", "features", palette=False),
    *_moves("card", "the card"),
    *_moves("circuit", "the circuit"),
    Action("circuit.open", "right,l", "sideways(1)", "open", "Open a node: what feeds it; on the grid the next token", "circuit", palette=False),
    Action("circuit.close", "left,h", "sideways(-1)", "close", "Close a node, or go to what it feeds; on the grid the token before", "circuit", palette=False),
    Action("circuit.enter", "enter", "enter", "open, close", "Open or close a node; from the grid to the tree; trace where nothing was", "circuit", palette=False),
    Action("circuit.explain", "T", "aim", "what to explain", "Say what the next trace explains: ·Paris / ·Rome | other prompt", "circuit"),
    Action("circuit.method", "m", "method", "method", "Method of the next trace: attrib, ig or exact", "circuit"),
    Action("circuit.more_nodes", "less_than_sign", "nodes(-1)", "more nodes", "Show weaker nodes too: a lower threshold of effects", "circuit"),
    Action("circuit.fewer_nodes", "greater_than_sign", "nodes(1)", "fewer nodes", "Show fewer nodes: a higher threshold of effects", "circuit"),
    Action("circuit.more_edges", "comma", "edges(-1)", "more edges", "Show weaker edges too: a lower threshold of edges", "circuit"),
    Action("circuit.fewer_edges", "full_stop", "edges(1)", "fewer edges", "Show fewer edges: a higher threshold of edges", "circuit"),
    Action("circuit.verify", "v", "verify", "verify", "Measure by intervention what the line claims: its edge, or under the metric its effect", "circuit"),
    Action("circuit.verify_effect", "V", "verify_whole", "verify effect", "Measure the node's whole effect by intervention", "circuit"),
    Action("circuit.pin", "p", "pin", "pin", "Pin a node: it stays whatever the thresholds are; or unpin it", "circuit"),
    Action("circuit.name", "n", "rename", "name", "Give the feature a name of your own", "circuit"),
    Action("circuit.group", "a", "group", "group", "Put the node in a named group, or with an empty name out of it", "circuit"),
    Action("circuit.grid", "w", "positions", "grid", "Show where the nodes are: tokens by sites, or the tree again", "circuit"),
    Action("circuit.faithfulness", "F", "faithfulness", "faithfulness", "Measure whether the nodes are enough, and whether they are all", "circuit"),
    Action("circuit.older", "H", "circuit(-1)", "older circuit", "Show the circuit traced before this one", "circuit"),
    Action("circuit.newer", "L", "circuit(1)", "newer circuit", "Show the circuit traced after this one", "circuit"),
    Action("steering.up", "up,k", "move(-1)", "row above", "The intervention above", "steering", palette=False),
    Action("steering.down", "down,j", "move(1)", "row below", "The intervention below", "steering", palette=False),
    Action("steering.weaker", "left,h", "ask('coarse', -1)", "weaker", "Less strength, by a quarter of the feature's maximum; of a factor by .25", "steering"),
    Action("steering.stronger", "right,l", "ask('coarse', 1)", "stronger", "More strength", "steering"),
    Action("steering.weaker_fine", "H,shift+left", "ask('fine', -1)", "a little weaker", "A little less strength, a tenth of a step", "steering"),
    Action("steering.stronger_fine", "L,shift+right", "ask('fine', 1)", "a little stronger", "A little more strength", "steering"),
    Action("steering.zero", "0", "ask('mark')", "no effect", "Back to the mark of the slider, where the strength does nothing", "steering"),
    Action("steering.number", "equals_sign", "ask('number')", "type", "Type the strength: 60, or -2.5x times the feature's maximum", "steering"),
    Action("steering.add", "a", "ask('feature')", "add feature", "Add a feature by its name, whether it fires on the prompt or not", "steering"),
    Action("steering.toggle", "x", "ask('toggle')", "on, off", "Turn the intervention on or off", "steering"),
    Action("steering.delete", "d", "ask('delete')", "delete", "Take the intervention away", "steering"),
    Action("steering.kind", "m", "ask('kind')", "kind", "What is done: add, clamp, scale, ablate, rescale, cap in turn", "steering"),
    Action("steering.positions", "p", "ask('next_positions')", "positions", "Where: all tokens, generated, prompt, the token under the cursor", "steering"),
    Action("steering.type_positions", "P", "ask('positions')", "type positions", "Type where: all, prompt, generated, 7, 2:9 or 2:", "steering"),
    Action("steering.error", "D", "ask('error')", "error", "Keep what the dictionaries do not explain, or drop it", "steering"),
    Action("steering.run", "enter", "ask('generate')", "run", "Generate plain and steered text again", "steering"),
    Action("steering.seed", "r", "ask('seed')", "new seed", "Generate with other random numbers", "steering"),
    Action("steering.settings", "o", "ask('settings')", "settings", "Type how texts are drawn: tokens, temperature, top-p, stop, watched tokens", "steering"),
    Action("steering.live", "v", "ask('live')", "live", "Let moves act on the text that streams, from its next token on, or not", "steering"),
    Action("steering.text_before", "comma", "ask('token', -1)", "token before", "The generated token before", "steering"),
    Action("steering.text_next", "full_stop", "ask('token', 1)", "next token", "The next generated token", "steering"),
    Action("steering.colour", "f", "ask('colour')", "colour", "Colour the steered text by KL, or by what steering did to each token's probability", "steering"),
    Action("steering.page_up", "pageup,ctrl+u", "page(-1)", "page up", "A page up in the texts", "steering", palette=False),
    Action("steering.page_down", "pagedown,ctrl+d", "page(1)", "page down", "A page down in the texts", "steering", palette=False),
    Action("steering.sweep", "w", "ask('sweep')", "sweep", "Measure dose and response: the strength under the cursor, varied", "steering"),
    Action("steering.control", "n", "ask('control')", "random control", "Measure random directions of the same norm beside the feature", "steering"),
    Action("steering.impact", "I", "ask('impact')", "impact", "Measure which other features change", "steering"),
    Action("steering.ablations", "A", "ask('ablations')", "ablations", "Rank the prompt's features by taking them out, beside activation and attribution", "steering"),
    Action("steering.save_preset", "W", "ask('save')", "save preset", "Keep the interventions that are on under a name", "steering"),
    Action("steering.open_preset", "O", "ask('presets')", "presets", "Choose from the presets of this session", "steering"),
    *_moves("studies", "the list of results and studies"),
    Action("studies.open", "enter,right,l", "choose", "open", "Open a result, or the form of a study", "studies", palette=False),
    Action("studies.again", "a", "again", "again", "Open the form with a result's settings", "studies", palette=False),
    Action("studies.stop", "e", "stop", "end", "Stop the study that runs and keep what it has found", "studies", palette=False),
    Action("studies.delete", "d", "delete", "delete", "Take a result out of the session", "studies", palette=False),
    Action("studies.undelete", "u", "undelete", "undelete", "Bring back the result that was deleted last", "studies", palette=False),
    Action("studies.help", "?", "help", "help", "Keys", "studies", palette=False),
    Action("studies.close", "escape,q", "leave", "back", "Back to the panes; a study goes on meanwhile", "studies", palette=False),
    Action("study.next", "],tab", "section(1)", "next", "The next section: figures, plots, tables, sets; also by its digit", "study", palette=False),
    Action("study.before", "[,shift+tab", "section(-1)", "before", "The section before", "study", palette=False),
    Action("study.mark", "space", "mark", "mark", "Mark the feature under the cursor, in a set all its features; or unmark", "study", palette=False),
    Action("study.steer", "s", "steer", "steer", "Take the feature under the cursor into steering, in a set all of them", "study", palette=False),
    Action("study.steer_marked", "S", "steer_marked", "steer marked", "Take all marked features into steering", "study", palette=False),
    Action("study.quicklist", "x", "export", "quicklist", "Show the Neuronpedia quicklist of a set, or of the marked features", "study", palette=False),
    Action("study.copy", "y", "copy_link", "copy link", "Copy the link or name of the feature under the cursor", "study", palette=False),
    Action("study.again", "a", "again", "again", "Open the form with these settings", "study", palette=False),
    Action("study.stop", "e", "stop", "end", "Stop the study and keep what it has found", "study", palette=False),
    Action("study.delete", "d", "delete", "delete", "Take the result out of the session; u on the page of all brings it back", "study", palette=False),
    Action("study.help", "?", "help", "help", "Keys", "study", palette=False),
    Action("study.close", "escape,q", "leave", "back", "Back to the list; a study goes on meanwhile", "study", palette=False),
)  # fmt: skip

HELP = "help.keys"
BY_ID = {action.id: action for action in ACTIONS}


def bindings(group: Group) -> list[Binding]:
    """The Textual bindings of a group."""
    return [
        Binding(a.keys, a.verb, a.label, show=False, id=a.id, tooltip=a.help, priority=a.priority)
        for a in ACTIONS
        if a.group == group
    ]


def moves_focus(key: str, group: Group) -> bool:
    """Whether a key pressed in a pane takes the focus elsewhere."""
    meant = [a for a in ACTIONS if a.group in (group, "anywhere") and key in a.keys.split(",")]
    own = [a for a in meant if a.group == group]
    return any(a.moves_focus and a.verb != f"pane('{group}')" for a in own or meant)


_SHOWN = {
    "question_mark": "?", "tilde": "~", "slash": "/", "equals_sign": "=", "less_than_sign": "<", "greater_than_sign": ">",
    "comma": ",", "full_stop": ".", "left": "←", "right": "→", "up": "↑", "down": "↓",
    "enter": "enter", "space": "space", "escape": "esc", "pageup": "pgup", "pagedown": "pgdn",
}  # fmt: skip


def shown_keys(keys: str) -> str:
    """Keys as a user reads them."""
    return " ".join(_SHOWN.get(key, key.replace("ctrl+", "^").replace("shift+", "⇧")) for key in keys.split(","))


_FOOTERS: dict[Group, tuple[str, ...]] = {
    "anywhere": (),
    "prompt": ("prompt.run", "view.back", "prompt.newline", "prompt.older", "prompt.chat"),
    "tokens": ("tokens.scope", "feature.next", "feature.mark", "feature.steer"),
    "features": ("features.filter", "features.order", "tokens.scope", "feature.mark", "feature.steer"),
    "card": ("feature.next", "feature.mark", "feature.steer", "feature.label", "feature.copy_link"),
    "circuit": ("circuit.open", "circuit.verify", "circuit.trace", "circuit.pin", "circuit.grid", "circuit.more_nodes"),
    "steering": (
        "steering.stronger", "steering.number", "steering.toggle", "steering.kind", "steering.seed", "steering.sweep",
        "steering.control",
    ),
    "studies": ("studies.open", "studies.again", "studies.delete", "studies.close"),
    "study": ("study.next", "study.mark", "study.again", "study.close"),
}  # fmt: skip
_ALWAYS = ("help.keys", "help.palette", "app.quit")
_WITHOUT = frozenset({"prompt", "studies", "study"})
"""Where those keys mean something else: in a text, and on a page."""


def footer(group: Group) -> list[Action]:
    """What the footer says while a pane of this group has the focus: its own keys, then those of everywhere."""
    always = () if group in _WITHOUT else _ALWAYS
    return [BY_ID[name] for name in (*_FOOTERS[group], *always)]
