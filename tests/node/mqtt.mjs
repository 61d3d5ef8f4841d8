// An MQTT client on the package `mqtt`, driven by JSON lines.
//
// in:  {"connect": {"url", "version": 4|5, "id", "clean", "expiry", "ca": FILE, "cert": FILE, "key": FILE, "user", "password", "method", "token", "will": {"topic", "text", "qos", "retain", "delay"}}}
//      {"subscribe": FILTER, "qos": N}   {"unsubscribe": FILTER}
//      {"publish": TOPIC, "base64": BYTES, "qos": N, "retain": BOOL, "content_type", "user": {NAME: VALUE}, "expiry"}
//      {"auth": TOKEN}, to authenticate anew   {"disconnect": true}   {"break": true}
// out: {"connected": {"present": BOOL, "user": {NAME: VALUE}}}   {"auth": REASON, "user"}   {"subscribed": [REASON..]}   {"unsubscribed": true}   {"published": TOPIC}
//      {"message": {"topic", "base64", "qos", "retain", "content_type", "user"}}
//      {"closed": true}   {"told": REASON}   {"error": TEXT}

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
let client;
let version;

function will({ topic, text, qos = 0, retain = false, delay }) {
  const properties = delay === undefined ? undefined : { willDelayInterval: delay };
  return { topic, payload: Buffer.from(text), qos, retain, properties };
}

let method;

function authentication({ method: name, token }) {
  method = name;
  return name && { authenticationMethod: name, authenticationData: Buffer.from(token) };
}

function connect(options) {
  version = options.version;
  client = mqtt.connect(options.url, {
    protocolVersion: version,
    clientId: options.id,
    clean: options.clean ?? true,
    username: options.user,
    password: options.password,
    reconnectPeriod: 0,
    ca: options.ca && readFileSync(options.ca),
    cert: options.cert && readFileSync(options.cert),
    key: options.key && readFileSync(options.key),
    will: options.will && will(options.will),
    properties: version === 5 ? { sessionExpiryInterval: options.expiry ?? 0, ...authentication(options) } : undefined,
  });
  client.handleAuth = (packet, done) => {
    say({ auth: packet.reasonCode, user: packet.properties?.userProperties });
    done();
  };
  client.on("connect", (packet) =>
    say({ connected: { present: packet.sessionPresent, user: packet.properties?.userProperties } }),
  );
  client.on("message", (topic, payload, packet) =>
    say({
      message: {
        topic,
        base64: payload.toString("base64"),
        qos: packet.qos,
        retain: packet.retain,
        content_type: packet.properties?.contentType,
        user: packet.properties?.userProperties,
      },
    }),
  );
  client.on("disconnect", (packet) => say({ told: packet.reasonCode }));
  client.on("close", () => say({ closed: true }));
  client.on("error", (error) => say({ error: error.message }));
}

function publish({ publish: topic, base64, qos = 0, retain = false, content_type, user, expiry }) {
  const properties = { contentType: content_type, userProperties: user, messageExpiryInterval: expiry };
  for (const name of Object.keys(properties)) if (properties[name] === undefined) delete properties[name];
  const options = { qos, retain, properties: version === 5 ? properties : undefined };
  client.publish(topic, Buffer.from(base64, "base64"), options, (error) =>
    say(error ? { error: error.message } : { published: topic }),
  );
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if ("connect" in command) connect(command.connect);
  else if ("subscribe" in command) {
    client.subscribe(command.subscribe, { qos: command.qos ?? 0 }, (error, granted) =>
      say(error ? { error: error.message } : { subscribed: granted.map(({ qos }) => qos) }),
    );
  } else if ("unsubscribe" in command) client.unsubscribe(command.unsubscribe, () => say({ unsubscribed: true }));
  else if ("publish" in command) publish(command);
  // The package answers AUTH packets of a server, and leaves the first one to its user.
  else if ("auth" in command) {
    const properties = { authenticationMethod: method, authenticationData: Buffer.from(command.auth) };
    client._sendPacket({ cmd: "auth", reasonCode: 0x19, properties });
  } else if ("disconnect" in command) client.end();
  else if ("break" in command) client.stream.destroy();
  else throw new Error(`not a command: ${line}`);
});
