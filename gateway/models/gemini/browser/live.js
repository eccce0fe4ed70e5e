// One session of the Live API from this page, with a token that has the agent's setup in it: what a page sends as its
// own is ignored.

const UP_TYPE = "audio/pcm;rate=16000";
const BEHIND_BYTES = 64_000;  // of unsent messages: newer audio is dropped, a caller is not heard seconds later

function base64(codes) {
  return btoa(String.fromCharCode(...new Uint8Array(codes)));
}

function bytesOf(data) {  // either alphabet
  return Uint8Array.from(atob(data.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0)).buffer;
}

// `on`: ready(), words(who, text), called({id, name, args}), withdrawn(ids), leaving(). `over` resolves to what the close
// said.
export function openLive({ url, token, model }, sound, on) {
  const socket = new WebSocket(`${url}?access_token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  let ready = false;
  let cut = false;  // what still comes of an interrupted turn is not played

  function send(message) {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }

  function content({ modelTurn, interrupted, turnComplete, inputTranscription, outputTranscription }) {
    if (inputTranscription?.text) on.words("caller", inputTranscription.text);
    if (outputTranscription?.text && !cut) on.words("agent", outputTranscription.text);
    for (const { inlineData } of modelTurn?.parts || []) {
      if (inlineData?.data && !cut) sound.play(bytesOf(inlineData.data));
    }
    if (interrupted) {
      cut = true;
      sound.clear();
    }
    if (turnComplete) cut = false;
  }

  const over = new Promise((resolve) => {
    socket.addEventListener("open", () => send({ setup: { model: model.startsWith("models/") ? model : `models/${model}` } }));
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(typeof data === "string" ? data : new TextDecoder().decode(data));
      if (message.setupComplete) {
        ready = true;
        sound.use({ frame: (codes) => socket.bufferedAmount <= BEHIND_BYTES && send({ realtimeInput: { audio: { data: base64(codes), mimeType: UP_TYPE } } }) });
        on.ready();
      }
      if (message.serverContent) content(message.serverContent);
      for (const call of message.toolCall?.functionCalls || []) on.called(call);
      if (message.toolCallCancellation) on.withdrawn(message.toolCallCancellation.ids || []);
      if (message.goAway) on.leaving();
    });
    socket.addEventListener("close", ({ code, reason }) => {
      sound.use(null);
      sound.clear();
      resolve({ ready, code, reason });
    });
  });
  return {
    over,
    send,
    prompt: (text) => send({ realtimeInput: { text } }),
    close: () => socket.close(1000),
  };
}
