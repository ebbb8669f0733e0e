// Where focus goes when what had it is no longer there: a browser leaves it nowhere.

const rows = "li, tr, .toast";
const focusable = "a[href], button";

// Runs `change`. What it takes focus from gives it to the rest of its row, to the next row or the one
// before; where it was in none, to the first that is new in the same view; or to the view's heading.
// `opener` is the button that opened the dialog, in whose place it is.
export function keepFocus(place, opener, change) {
  const had = document.activeElement;
  const here = place.contains(had);
  const row = (had.closest("dialog") ? opener : had)?.closest(rows);
  const all = row ? [...row.parentElement.children] : [];
  const at = all.indexOf(row);
  const heading = place.querySelector("h2");
  const known = new Set(here && !row ? place.querySelectorAll(rows) : []);
  change();
  if (!here || document.activeElement !== document.body) return;
  const fresh = row || !heading?.isConnected ? [] : [...place.querySelectorAll(rows)].filter((each) => !known.has(each));
  const near = [...all.slice(at), ...all.slice(0, Math.max(0, at)).reverse(), ...fresh];
  const left = near.filter((element) => element.isConnected).map((element) => element.querySelector(focusable));
  const next = left.find(Boolean) || place.querySelector("h2");
  if (next.tagName === "H2") next.tabIndex = -1;
  next.focus({ preventScroll: true });
}
