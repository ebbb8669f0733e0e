// Where focus goes when what had it is no longer there: a browser leaves it nowhere.

const lists = "li, tr";
const rows = `${lists}, .toast`;
const focusable = "a[href], button";

// Runs `change`. What it takes focus from gives it to the rest of its row, to the next row or the one
// before, or to the view's heading; and what was in no list first of all to what is new in one, as after
// "Show more" and "Undo". `opener` is the button that opened the dialog, in whose place it is.
export function keepFocus(place, opener, change) {
  const had = document.activeElement;
  const here = place.contains(had);
  const row = (had.closest("dialog") ? opener : had)?.closest(rows);
  const all = row ? [...row.parentElement.children] : [];
  const at = all.indexOf(row);
  const heading = place.querySelector("h2");
  const listed = () => (row?.matches(lists) ? [] : [...place.querySelectorAll(lists)]);
  const known = new Set(here ? listed() : []);
  change();
  if (!here || document.activeElement !== document.body) return;
  const fresh = heading?.isConnected ? listed().filter((each) => !known.has(each)) : []; // of the same view
  const near = [...fresh, ...all.slice(at), ...all.slice(0, Math.max(0, at)).reverse()];
  const left = near.filter((element) => element.isConnected).map((element) => element.querySelector(focusable));
  const next = left.find(Boolean) || place.querySelector("h2");
  if (next.tagName === "H2") next.tabIndex = -1;
  next.focus({ preventScroll: true });
}
