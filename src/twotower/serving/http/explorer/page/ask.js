// Questions to the service that sent this page: nothing here asks anyone else.
const KEY = "twotower token";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Kept for this tab alone, and gone with it.
export const setToken = (token) => (token ? sessionStorage.setItem(KEY, token) : sessionStorage.removeItem(KEY));

// The answer to one question, with `took`: milliseconds from the question to the answer as the page sees them.
export async function ask(name, body, signal) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const posted = body && { method: "POST", body: JSON.stringify(body) };
  if (posted) headers["Content-Type"] = "application/json";
  const began = performance.now();
  let response, answer;
  try {
    response = await fetch(`api/${name}`, { ...posted, headers, signal, cache: "no-store" });
    answer = await response.json();
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
  if (!response.ok) throw new Refused(response.status, answer.error ?? `status ${response.status}`);
  return { ...answer, took: performance.now() - began };
}
