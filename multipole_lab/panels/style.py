"""The panels' look: JupyterLab's own colours for text, so that both themes are readable."""

STYLE = """<style>
.ml-panel { padding: 4px 0; overflow: hidden; }
.ml-panel .ml-controls, .ml-panel .ml-buttons { display: flex; flex-flow: row wrap; gap: 2px 14px; }
.ml-panel .ml-buttons { align-items: center; }
.ml-panel .ml-buttons button { width: auto; padding: 0 12px; }
.ml-panel .widget-inline-hbox { width: 285px; }
.ml-panel .widget-toggle-buttons { width: auto; }
.ml-panel .widget-inline-hbox .widget-label { width: 96px; text-align: left; }
.ml-panel .ml-controls :focus-visible { outline: 2px solid #E69F00; outline-offset: 2px; }
/* Text of a figure follows the theme; what carries a colour of its own keeps it. */
.ml-panel .js-plotly-plot :is(.gtitle, .xtitle, .ytitle, .x2title, .y2title, .legendtext, .colorbar text,
  .xtick text, .ytick text, [class$="tick"] text, [class*="title"] text):not([data-keep]) {
  fill: var(--jp-ui-font-color1) !important; }
/* A busy mark that fast work never shows: it stays invisible for its first 0.3 s. */
.ml-panel .ml-busy { animation: ml-appear 0s linear 0.3s both; color: var(--jp-ui-font-color1); }
@keyframes ml-appear { from { opacity: 0; } to { opacity: 1; } }
.ml-panel .ml-error { border-left: 4px solid #D55E00; padding: 6px 10px; line-height: 1.4;
  color: var(--jp-ui-font-color1); background: rgba(213, 94, 0, 0.12); white-space: normal; }
.ml-panel progress { vertical-align: middle; width: 140px; }
</style>"""
