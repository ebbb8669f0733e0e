// Where focus goes when what had it is no longer there: a browser leaves it nowhere.

const rows = "li, tr, .toast";
const focusable = "a[href], button:not(:disabled)";

// Runs `change`. What it takes focus from gives it to the rest of its row, to the next row or the one
// before, or to the view's heading. `opener` is the button that opened the dialog, in whose place it is.
export function keepFocus(place, opener, change) {
  const had = document.activeElement;
  const here = place.contains(had);
  const row = (had.closest("dialog") ? opener : had)?.closest(rows);
  const all = row ? [...row.parentElement.children] : [];
  const at = all.indexOf(row);
  change();
  if (!here || document.activeElement !== document.body) return;
  const near = [...all.slice(at), ...all.slice(0, Math.max(0, at)).reverse()];
  const left = near.filter((element) => element.isConnected).map((element) => element.querySelector(focusable));
  const next = left.find(Boolean) || place.querySelector("h2");
  if (next.tagName === "H2") next.tabIndex = -1;
  next.focus({ preventScroll: true });
}
