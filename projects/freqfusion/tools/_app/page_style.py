"""Style of the viewer's page."""

# The colours of the maps' scale, for the bar below them: viridis at nine places.
_SCALE = "#440154, #472d7b, #3b528b, #2c728e, #21918c, #28ae80, #5ec962, #addc30, #fde725"

STYLE = (
    """
header { position: sticky; top: 0; z-index: 2; padding: 14px 0 12px; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.controls { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin-top: 10px; }
.controls label, fieldset { color: var(--soft); font-size: .88rem; }
button, .button, select, #module { min-height: 34px; }
.controls .button { display: inline-flex; align-items: center; padding: 4px 12px;
  color: #fff; background: #0a64c8; border-radius: 7px; font-size: 1rem; cursor: pointer; }
#file { position: absolute; opacity: 0; width: 1px; height: 1px; padding: 0; }
fieldset { display: inline-flex; gap: 2px; align-items: center; margin: 0; padding: 0;
  border: 0; min-width: 0; }
legend { float: left; margin-right: 6px; padding: 0; }
fieldset label { position: relative; }
fieldset input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; margin: 0;
  cursor: pointer; }
fieldset span { display: inline-block; padding: 6px 11px; color: var(--ink); font-size: .95rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 7px; }
fieldset :checked + span { color: var(--paper); background: var(--ink); border-color: var(--ink); }
#module { width: 17em; max-width: 100%; }
#status { margin-left: auto; color: var(--soft); font-size: .88rem; }
:is(button, select, .stage, #module):focus-visible, .button:focus-within,
fieldset :focus-visible + span { outline: 3px solid var(--mark); outline-offset: 2px; }
#message, .problem { margin: 14px 0 0; padding: 9px 14px; border-radius: 9px;
  color: #8a1c12; background: #fdecea; border: 1px solid #f3b8b1; overflow-wrap: anywhere; }
.problem { margin: 8px 0 0; font-size: .9rem; }
#empty { display: grid; place-items: center; min-height: 62vh; margin-top: 18px; padding: 24px;
  text-align: center; color: var(--soft); border: 2px dashed var(--line); border-radius: 18px; }
#empty svg { width: 76px; fill: none; stroke: currentColor; stroke-width: 2; opacity: .7;
  stroke-linejoin: round; }
.large { margin: 10px 0 4px; color: var(--ink); font-size: 1.5rem; font-weight: 600; }
.dropping #empty, .dropping main { outline: 3px solid var(--mark); outline-offset: 4px;
  border-radius: 18px; }
main { display: grid; gap: 16px; margin-top: 18px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 370px), 1fr)); }
.panel { margin: 0; padding: 12px 14px 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 14px; min-width: 0; }
[data-kind=lattice], [data-kind=attention] { grid-column: 1 / -1; }
.over { display: flex; gap: 10px; align-items: center; margin-bottom: 8px; min-height: 40px; }
h2 { margin: 0; font-size: 1.02rem; font-weight: 620; }
.told { flex: 1; min-width: 7em; margin: 0; color: var(--soft); font-size: .82rem;
  line-height: 1.25; }
.enlarge { flex: none; border-color: transparent; background: none; color: var(--soft);
  padding: 0 7px; font-size: 1.1rem; }
.stage { position: relative; overflow: hidden; border-radius: 8px; line-height: 0; }
.stage[data-placed] { cursor: crosshair; touch-action: manipulation; }
.stage img { width: 100%; height: auto; transition: opacity .15s; }
[aria-busy=true] .stage img { opacity: .45; }
.stale .stage img { opacity: .15; }
.stale :is(.scale, figcaption, .legend, .at) { display: none; }
.at { position: absolute; width: 22px; height: 22px; margin: -11px 0 0 -11px; border-radius: 50%;
  border: 2.5px solid #fff; box-shadow: 0 0 0 1.5px #000c, inset 0 0 0 1.5px #000c;
  pointer-events: none; }
.at::after { content: ""; position: absolute; inset: 7px; border-radius: 50%; background: #fff;
  box-shadow: 0 0 0 1px #000c; }
.scale { display: flex; gap: 8px; align-items: center; margin-top: 9px; font-size: .82rem;
  font-variant-numeric: tabular-nums; }
.scale b { font-weight: 500; }
.scale i { flex: 1; height: 10px; border-radius: 5px; background: linear-gradient(90deg, """
    + _SCALE
    + """); }
figcaption { margin-top: 6px; color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
figcaption:empty, .legend:empty { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0 0; padding: 0;
  list-style: none; font-size: .85rem; }
.legend i { display: inline-block; width: .85em; height: .85em; margin-right: .4em;
  border-radius: 3px; vertical-align: -.06em; box-shadow: inset 0 0 0 1px #8888; }
dialog { position: fixed; inset: 0; width: auto; height: auto; max-width: none; max-height: none;
  margin: 0; padding: 12px; border: 0; background: #101013; color: #ececf0; }
dialog[open] { display: flex; flex-direction: column; gap: 8px; }
dialog div { display: flex; justify-content: space-between; align-items: center; }
dialog p { margin: 0; }
dialog button { color: inherit; background: #2a2a31; border-color: #4a4a54; }
dialog img { flex: 1; min-height: 0; width: 100%; object-fit: contain; }
@media (max-width: 560px) { h1 { font-size: 1.1rem; } header { position: static; }
  #status { margin-left: 0; }
  fieldset span { padding: 6px 9px; } #empty { min-height: 46vh; } }
@media (prefers-reduced-motion: reduce) { .stage img { transition: none; } }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) :is(#message, .problem) {
  color: #ffc4bd; background: #3a1a17; border-color: #6d2f28; }
  :root:not([data-theme=light]) [data-kind=spectrum] img {
    filter: invert(.9) hue-rotate(180deg); } }
:root[data-theme=dark] :is(#message, .problem) { color: #ffc4bd; background: #3a1a17;
  border-color: #6d2f28; }
:root[data-theme=dark] [data-kind=spectrum] img { filter: invert(.9) hue-rotate(180deg); }
"""
)
