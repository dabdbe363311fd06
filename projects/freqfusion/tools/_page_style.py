"""What the pages of all tools share: colours for light and dark, text and controls."""

BASE_STYLE = """
:root { color-scheme: light; --paper: #f6f6f4; --card: #fff; --ink: #1d1d22; --soft: #66666f;
  --line: #dddde2; --mark: #0a64c8; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { color-scheme: dark;
  --paper: #131316; --card: #1d1d22; --ink: #ececf0; --soft: #a2a2ad; --line: #34343c;
  --mark: #6cb2ff; } }
:root[data-theme=dark] { color-scheme: dark; --paper: #131316; --card: #1d1d22; --ink: #ececf0;
  --soft: #a2a2ad; --line: #34343c; --mark: #6cb2ff; }
* { box-sizing: border-box; }
body { margin: 0; padding: 0 clamp(12px, 2.5vw, 40px) 40px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
.head { display: flex; justify-content: space-between; align-items: center; gap: 12px; }
h1 { margin: 0; font-size: 1.3rem; font-weight: 650; overflow-wrap: anywhere; }
input, select, button { font: inherit; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 7px; padding: 4px 9px; }
button { cursor: pointer; line-height: 1.2; }
[hidden] { display: none !important; }
"""

# Needs a button with the id "theme".
THEME_SCRIPT = """
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
"""
