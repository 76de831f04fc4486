"""Page code for widgets of anywidget: one whose code came late hears what Python says all the same."""

# anywidget gives a widget two seconds to load its code. On a page that is busy for longer, with many panels on a slow
# computer, it runs the code all the same, but drops every message: what Python said since the widget was opened, and
# all that it will say. A figure then is empty axes for good. For such a widget messages are taken from the channel
# itself, as a widget of ipywidgets takes them, and Python is asked for the whole state again.
HEARING = """
const hearing = async (model) => {  // resolves when the model has what Python has
  let whole;
  const note = (own) => { whole = own; };  // the model behind the few methods that anywidget gives
  model.on("change:_heard", note);
  model.set("_heard", true);
  model.off("change:_heard", note);
  if (!whole?.comm) return;  // a page without a kernel
  try {
    await whole._handle_comm_msg({ content: { data: { method: "nothing" } } });
    return;
  } catch {
    console.debug("a widget's code came late; asking for its state again");
  }
  const hear = Object.getPrototypeOf(whole.constructor.prototype)._handle_comm_msg;
  await new Promise((there) => {
    let asked;
    setTimeout(there, 30000);
    whole.comm.on_msg(async (message) => {
      await hear.call(whole, message);
      if (message.parent_header?.msg_id === asked) there();  // others may still be on their way
    });
    asked = whole.comm.send({ method: "request_state" }, {});
  });
};
"""
# What ends the code of a widget that is a function `render`; it may be drawn before its state has come.
EXPORT = "export default { initialize({ model }) { hearing(model); }, render };\n"


def heard(render: str) -> str:
    """The code of a widget, from its function ``render``."""
    return HEARING + render + EXPORT
