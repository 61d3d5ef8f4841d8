// Takes plain connections on loopback, and speaks TLS for them with a certificate of its own.
//
// in:  {"to": "ADDRESS:PORT", "ca": FILE, "cert": FILE, "key": FILE}
// out: {"port": N}

import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { connect, createSecureContext } from "node:tls";

function open({ to, ca, cert, key }) {
  const [host, port] = to.split(":");
  const secureContext = createSecureContext({ ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key) });
  const listener = createServer({ noDelay: true }, (plain) => {
    const secure = connect({ host, port, secureContext });
    secure.setNoDelay(true);
    plain.pipe(secure).pipe(plain);
    // Either end may break, or be gone first.
    plain.on("error", () => secure.destroy()).on("close", () => secure.destroy());
    secure.on("error", () => plain.destroy()).on("close", () => plain.end());
  });
  listener.listen(0, "127.0.0.1", () => process.stdout.write(`${JSON.stringify({ port: listener.address().port })}\n`));
}

createInterface({ input: process.stdin }).on("line", (line) => open(JSON.parse(line)));
