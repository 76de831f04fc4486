"""The panels' look: JupyterLab's own colours for text, so that both themes are readable."""

STYLE = """<style>
.ml-panel { padding: 4px 2px; overflow: hidden; }
/* As many columns of controls as fit: two beside the file browser in a 900 pixel window. */
.ml-panel .ml-controls { display: grid; grid-template-columns: repeat(auto-fill, minmax(218px, 1fr));
  gap: 0 12px; align-items: center; overflow: visible; }
.ml-panel .ml-controls > * { width: auto; margin: 2px 0; min-width: 0; }
.ml-panel .ml-controls .widget-label { width: 82px; flex: 0 0 82px; text-align: left; }
.ml-panel .ml-controls .widget-readout { min-width: 46px; flex: 0 0 46px; }
.ml-panel .ml-controls .slider-container { min-width: 60px; }
.ml-panel .ml-controls .widget-toggle-buttons .widget-label { flex-basis: 54px; width: 54px; }
.ml-panel .ml-controls .widget-toggle-buttons { display: flex; flex-flow: row nowrap; width: auto; }
.ml-panel .ml-controls .widget-toggle-button { width: auto; padding: 0 8px; }
.ml-panel .ml-controls :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
.ml-panel .ml-buttons { display: flex; flex-flow: row wrap; gap: 2px 8px; align-items: center; }
.ml-panel .ml-buttons button { width: auto; padding: 0 10px; margin: 2px 0; }
/* Text of a figure follows the theme. */
.ml-panel .js-plotly-plot :is(.gtitle, .legendtext, .annotation-text, .bartext, .colorbar text,
  [class$="title"], [class$="tick"] text) { fill: var(--jp-ui-font-color1) !important; }
/* A busy mark that fast work never shows: it stays invisible for its first 0.3 s. */
.ml-panel .ml-busy { animation: ml-appear 0s linear 0.3s both; color: var(--jp-ui-font-color1); }
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
.ml-panel .ml-code { margin: 4px 0; padding: 6px 10px; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4;
  color: var(--jp-ui-font-color1); background: rgba(128, 128, 128, 0.13); }
.ml-panel progress { vertical-align: middle; width: 140px; }
</style>"""
