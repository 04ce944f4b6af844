"use strict";
// Speaks with one session over WebRTC and shows what is said. Whom with and by what right is in the fragment, which no
// server sees: #session=…&token=…&ice=…, of the `transport` of the answer to POST /v1/sessions. It is taken out of the
// address when the call begins.

const element = (id) => document.getElementById(id);
const state = (text) => { element("state").textContent = text; };
const given = new URLSearchParams(location.hash.slice(1));
const session = given.get("session") ?? "";
const token = given.get("token") ?? "";
const base = `/v1/sessions/${encodeURIComponent(session)}`;
const authorization = `Bearer ${token}`;
const RETRY_MS = 1000;

let pc = null;
let microphone = null;
let pcId = null;
let found = [];
let over = false;

const send = async (method, body) => {
  const answer = await fetch(`${base}/offer`, {
    method,
    headers: { authorization, "content-type": "application/json" },
    body: JSON.stringify(body),
    credentials: "omit",
  });
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.title ?? json.code);
  return json;
};

// What was found before the answer came has to wait for the name of the connection.
const sendCandidates = async () => {
  if (!pcId || !found.length) return;
  const candidates = found;
  found = [];
  await send("PATCH", { pc_id: pcId, candidates });
};

const negotiate = async () => {
  await pc.setLocalDescription(await pc.createOffer());
  const { sdp, type } = pc.localDescription;
  const answer = await send("POST", { sdp, type, ...(pcId ? { pc_id: pcId } : {}) });
  pcId = answer.pc_id;
  await pc.setRemoteDescription({ type: answer.type, sdp: answer.sdp });
  await sendCandidates();
};

const show = (kind, text) => {
  const line = document.createElement("li");
  line.className = kind;
  line.textContent = text;
  element("said").append(line);
};

const tell = ({ type, data }) => {
  if (type === "user_spoke") show("user", data.text);
  else if (type === "agent_spoke") show("agent", data.interrupted ? `${data.text} –` : data.text);
  else if (type === "call_ending_soon") show("note", "This call will end soon.");
  else if (type === "session.ended") finish(`ended: ${data.outcome}`);
};

// Server-sent events by hand: EventSource can't send the token but in the address.
const read = async (body, after) => {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return { after, ended: false };
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(
        part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
      );
      if (fields.event === "end") return { after, ended: true };
      if (fields.id) after = fields.id;
      if (fields.data) tell(JSON.parse(fields.data));
    }
  }
};

const follow = async () => {
  let after = "0";
  for (;;) {
    try {
      const answer = await fetch(`${base}/call/events?after=${after}`, {
        headers: { authorization },
        credentials: "omit",
      });
      // The token is good for a beginning, within some minutes.
      if (answer.status === 401 || answer.status === 403 || answer.status === 404) break;
      if (answer.ok) {
        const came = await read(answer.body, after);
        after = came.after;
        if (came.ended) return;
      }
    } catch {
      // The network, or an instance that goes: what was missed comes with the next try.
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  if (!over) show("note", "What is said can't be shown any more.");
};

const finish = (text) => {
  over = true;
  pc?.close();
  for (const track of microphone?.getTracks() ?? []) track.stop();
  element("mute").disabled = element("end").disabled = true;
  state(text);
};

const begin = async () => {
  element("begin").disabled = true;
  history.replaceState(null, "", location.pathname);
  state("connecting");
  try {
    microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    pc = new RTCPeerConnection({ iceServers: JSON.parse(given.get("ice") || "[]") });
    const channel = pc.createDataChannel("chat");
    channel.onopen = () => {
      setInterval(() => channel.readyState === "open" && channel.send(`ping: ${Date.now()}`), RETRY_MS);
    };
    pc.onconnectionstatechange = () => {
      if (over) return;
      state(pc.connectionState);
      if (pc.connectionState === "failed") finish("the connection was lost");
    };
    pc.onicecandidate = ({ candidate }) => {
      found.push({
        candidate: candidate?.candidate ?? "",
        sdp_mid: candidate?.sdpMid ?? "0",
        sdp_mline_index: candidate?.sdpMLineIndex ?? 0,
      });
      sendCandidates().catch((error) => over || state(error.message));
    };
    pc.ontrack = ({ track }) => { element("bot").srcObject = new MediaStream([track]); };
    for (const track of microphone.getAudioTracks()) pc.addTrack(track, microphone);
    await negotiate();
    element("mute").disabled = element("end").disabled = false;
  } catch (error) {
    finish(error.message);
    return;
  }
  follow();
};

element("begin").addEventListener("click", begin);
element("end").addEventListener("click", () => finish("you have hung up"));
element("mute").addEventListener("click", () => {
  const muted = element("mute").getAttribute("aria-pressed") !== "true";
  element("mute").setAttribute("aria-pressed", String(muted));
  for (const track of microphone.getAudioTracks()) track.enabled = !muted;
});
addEventListener("pagehide", () => pc?.close());
if (!session || !token) {
  element("begin").disabled = true;
  state("this address names no call");
}
