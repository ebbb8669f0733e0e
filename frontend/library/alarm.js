import { html, nothing } from "lit-html";

// What went wrong, said at once.
export function alarm(problem, more = "") {
  return problem ? html`<p class="mistake" role="alert">${problem} ${more}</p>` : nothing;
}
