"""The panels' look: JupyterLab's own colours for text, so that both themes are readable."""

STYLE = """<style>
.ml-panel { padding: 4px 2px; overflow: clip; position: relative; }
.ml-panel:not(.ml-lab) { container-type: inline-size; }
/* JupyterLab sets cells out of view aside, again and again; words that Chromium drew meanwhile keep no size, and stay
   unseen. A panel's cell is never set aside. */
.jp-Cell:has(.ml-panel) { content-visibility: visible !important; }
/* Controls stand above the figure; beside it, where there is room: what is moved and what moves, in one look. */
.ml-stage { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 16px; overflow: visible; }
.ml-settings { display: flex; flex-flow: column; align-items: normal; align-self: start; overflow: visible;
  min-width: 0; }
.ml-view, .ml-figures, .ml-figure { overflow: visible; min-width: 0; }
.ml-figure > * { width: 100%; }
.ml-figure { position: relative; }
.ml-held { display: contents; }
.ml-held > :first-child { grid-column: 1 / -1; order: -1; }
.ml-figures { display: grid; grid-template-columns: minmax(0, 1fr); gap: 4px 12px; align-items: start; }
@container (min-width: 800px) {
  .ml-panel:not(.ml-holding) > .ml-stage { grid-template-columns: 264px minmax(0, 1fr); }
  .ml-panel.ml-large:not(.ml-holding) > .ml-stage { grid-template-columns: 330px minmax(0, 1fr); }
  .ml-panel:not(.ml-holding) > .ml-stage > .ml-settings { position: sticky; top: 0; }
  .ml-holding > .ml-stage .ml-figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
.ml-panel .ml-fold { width: auto; padding: 0 10px; align-self: start; margin: 2px 0; }
.ml-panel .ml-fold::after { content: " ▸"; }
.ml-panel .ml-fold.mod-active::after { content: " ▾"; }
.ml-panel .ml-i { flex: 0 0 16px; width: 16px; height: 16px; padding: 0; margin: 0 4px 0 0; border-radius: 50%;
  border: 1px solid var(--jp-ui-font-color2); background: transparent; color: var(--jp-ui-font-color1);
  font: italic 11px/1 serif; cursor: help; align-self: center; }
.ml-panel .widget-toggle-buttons > .ml-i { align-self: flex-start; margin-top: 6px; }
.ml-note { position: absolute; z-index: 20; max-width: 300px; padding: 5px 9px; line-height: 1.4; font-size: 13px;
  color: var(--jp-ui-font-color1); background: var(--jp-layout-color1); border: 1px solid var(--jp-ui-font-color2);
  border-radius: 3px; pointer-events: none; }
/* The whole screen: what is in the way of the picture goes. */
.ml-panel:fullscreen { background: var(--jp-layout-color0); padding: 16px 28px; overflow: auto; }
.ml-panel:fullscreen > .ml-folded { display: none; }
/* As many columns of controls as fit: two beside the file browser in a 900 pixel window. */
.ml-panel .ml-controls { display: grid; grid-template-columns: repeat(auto-fill, minmax(218px, 1fr));
  gap: 0 12px; align-items: center; overflow: visible; }
.ml-panel .ml-controls > * { width: auto; margin: 2px 0; min-width: 0; }
.ml-panel .ml-controls .widget-label { width: 82px; flex: 0 0 82px; text-align: left; }
.ml-panel .ml-controls .widget-readout { min-width: 46px; flex: 0 0 46px; }
.ml-panel .ml-controls .slider-container { min-width: 50px; }
.ml-panel .ml-controls .widget-toggle-buttons .widget-label { flex-basis: 54px; width: 54px; }
.ml-panel .ml-controls .widget-toggle-buttons { display: flex; flex-flow: row nowrap; width: auto; }
.ml-panel .ml-controls .widget-toggle-button { width: auto; padding: 0 8px; }
.ml-panel :is(.ml-settings, .ml-controls) :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
.ml-panel .ml-buttons { display: flex; flex-flow: row wrap; gap: 2px 8px; align-items: center; }
.ml-panel .ml-buttons button { width: auto; padding: 0 10px; margin: 2px 0; }
/* Text of a figure follows the theme. */
.ml-panel .js-plotly-plot :is(.gtitle, .legendtext, .annotation-text, .bartext, .textpoint text, .colorbar text,
  [class$="title"], [class$="tick"] text) { fill: var(--jp-ui-font-color1) !important; }
/* The kernel is another one, or gone: one banner in the place of a broken chain at every part. */
.ml-panel.jupyter-widgets-disconnected::before { content: "The kernel has started again: run this cell again.";
  display: block; font: inherit; border-left: 4px solid #D55E00; padding: 6px 10px; margin-bottom: 4px; opacity: 1;
  color: var(--jp-ui-font-color1); background: rgba(213, 94, 0, 0.12); }
.ml-panel .jupyter-widgets-disconnected::before { content: none; }
/* A busy mark that fast work never shows: it stays invisible for its first 0.3 s. */
.ml-panel .ml-busy { animation: ml-appear 0s linear 0.3s both; color: var(--jp-ui-font-color1); }
/* A veil over the picture: by an opacity or a cursor of its own all its marks would be placed and drawn again. */
.ml-working > .ml-stage .ml-figures > .ml-figure::after { content: ""; position: absolute; inset: 0; opacity: 0;
  background: var(--jp-layout-color0); pointer-events: none; animation: ml-veil 0.2s linear 0.3s both; }
@keyframes ml-veil { to { opacity: 0.55; } }
@keyframes ml-appear { from { opacity: 0; } to { opacity: 1; } }
.ml-panel .ml-error { border-left: 4px solid #D55E00; padding: 6px 10px; line-height: 1.4;
  color: var(--jp-ui-font-color1); background: rgba(213, 94, 0, 0.12); white-space: normal; }
/* Larger type; the figure's own is enlarged where it is drawn. */
.ml-panel.ml-large { --jp-widgets-font-size: 18px; --jp-widgets-inline-height: 38px; font-size: 18px; }
.ml-panel.ml-large .ml-controls { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.ml-panel.ml-large .ml-controls .widget-label { width: 112px; flex-basis: 112px; }
.ml-panel.ml-large .ml-controls .widget-readout { min-width: 62px; flex-basis: 62px; }
.ml-panel.ml-large :is(.widget-label, .widget-readout, .widget-toggle-button, button, .widget-html-content, input,
  select) { font-size: 18px; }
.ml-panel.ml-large .widget-html-content { line-height: 1.5; }
.ml-panel.ml-large :is(.ml-story, .ml-prompt) { font-size: 17px; height: 300px; }
.ml-panel.ml-large :is(.ml-find, .ml-story-foot) { font-size: 15px; }
.ml-panel .ml-code { margin: 4px 0; padding: 6px 10px; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4;
  color: var(--jp-ui-font-color1); background: rgba(128, 128, 128, 0.13); }
/* The text of a story: blue is summed itself, orange seen in a cluster, both as strong as --a. */
.ml-story { height: 250px; overflow-y: auto; position: relative; border: 1px solid rgba(128, 128, 128, 0.4);
  margin: 4px 0; color: var(--jp-ui-font-color1); line-height: 1.55; font-size: 13px; }
.ml-story:focus-visible { outline: 2px solid #E69F00; outline-offset: -2px; }
.ml-story-head { position: sticky; top: 0; z-index: 1; background: var(--jp-layout-color1); padding: 2px 8px; }
.ml-find { grid-column: 1 / -1; display: flex; gap: 6px; align-items: center; font-size: 12px; }
.ml-find input { width: 150px; font: inherit; color: inherit; background: transparent;
  border: 1px solid rgba(128, 128, 128, 0.6); padding: 1px 4px; }
.ml-story .found { outline: 1px dashed #D55E00; }
.ml-story-body { padding: 0 8px; }
.ml-story-head, .ml-story-body { display: grid; grid-template-columns: 1fr 1fr; gap: 0 20px; }
.ml-story-body > div { white-space: pre-wrap; overflow-wrap: anywhere; }
.ml-story-body span { cursor: pointer; border-radius: 3px; }
.ml-story .w1 { color: var(--jp-ui-font-color2); }
.ml-story :is(.w2, .w4, .w6) { background: rgba(86, 180, 233, calc(0.6 * var(--a, 1))); }
.ml-story :is(.w3, .w5, .w7) { background: rgba(230, 159, 0, calc(0.6 * var(--a, 1))); }
.ml-story :is(.w4, .w5) { text-decoration: underline 3px #D55E00; }
.ml-story :is(.w6, .w7) { text-decoration: underline 3px dotted #2A7FC0; }
.ml-story .own { outline: 2px solid var(--jp-ui-font-color1); font-weight: bold; }
.ml-story .same { box-shadow: inset 0 0 0 1px #E69F00; }
.ml-story-foot { display: flex; flex-wrap: wrap; gap: 2px 12px; padding: 2px 8px; font-size: 12px;
  position: sticky; bottom: 0; background: var(--jp-layout-color1); }
.ml-story-foot span { padding: 0 4px; border-radius: 3px; --a: 0.7; }
/* The prompt of a text that is being written, small enough to be seen at a glance, and what is written. */
.ml-manuscript { color: var(--jp-ui-font-color1); margin: 4px 0; }
.ml-prompt { height: 190px; overflow-y: auto; border: 1px solid rgba(128, 128, 128, 0.4); padding: 2px 8px;
  font-size: 11.5px; line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; position: relative; }
.ml-prompt:focus-visible { outline: 2px solid #E69F00; outline-offset: -2px; }
.ml-manuscript span { border-radius: 3px; }
.ml-manuscript .w2 { background: rgba(86, 180, 233, 0.35); }
.ml-manuscript .w3 { background: rgba(230, 159, 0, 0.6); }
.ml-sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 4px 20px;
  padding: 2px 8px; }
.ml-sides p { margin: 2px 0; min-height: 44px; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.55; }
.ml-sides p span { cursor: pointer; }
.ml-sides .ml-parted { text-decoration: underline 3px #D55E00; font-weight: bold; }
.ml-sides .own { outline: 2px solid var(--jp-ui-font-color1); }
/* The race. */
.ml-race { display: grid; grid-template-columns: max-content 1fr max-content; gap: 3px 10px; align-items: center;
  margin: 6px 2px; line-height: 1.3; color: var(--jp-ui-font-color1); max-width: 700px; }
.ml-race small { grid-column: 2; font-size: 12px; }
.ml-track { height: 14px; background: rgba(128, 128, 128, 0.2); border-radius: 3px; overflow: hidden; }
.ml-bar { height: 100%; width: 100%; transform-origin: left; animation: ml-fill 3s linear both; }
@keyframes ml-fill { from { transform: scaleX(0); } to { transform: scaleX(1); } }
@media (prefers-reduced-motion: reduce) { .ml-bar { animation: none; } }
/* The desk: its panels beside each other where two fit. */
.ml-lab-grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 8px 16px;
  overflow: visible; align-items: start; }
.ml-panel.ml-lab, :is(.jp-OutputArea-output, .jp-OutputArea-child, .jp-OutputArea, .jp-Cell-outputWrapper,
  .jp-Cell-outputArea):has(.ml-panel) { overflow: visible; }
.ml-lab > .ml-controls { position: sticky; top: 0; z-index: 10; background: var(--jp-layout-color0); }
.ml-panel.ml-lab .ml-settings { position: static !important; }
.ml-lab-grid > .ml-panel { border-top: 2px solid rgba(128, 128, 128, 0.4); min-width: 0; }
.ml-panel progress { vertical-align: middle; width: 140px; }
</style>"""
