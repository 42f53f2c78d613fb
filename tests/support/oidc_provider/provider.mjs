// Serves the certified oidc-provider on a free loopback port with accounts that exist once asked
// for. Usage: node provider.mjs <folder with node_modules> <callback URL>; prints its issuer.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, callback] = process.argv.slice(2);
const entry = join(folder, "node_modules", "oidc-provider", "lib", "index.js");
const { default: Provider } = await import(pathToFileURL(entry).href);

const key = (type, options, rest) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: "jwk" }),
  use: "sig",
  ...rest,
});
const client = (id, rest) => ({ client_id: id, redirect_uris: [callback], ...rest });

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      client("trellis", { client_secret: "s3cret" }),
      client("public", {
        token_endpoint_auth_method: "none",
        id_token_signed_response_alg: "ES256",
      }),
    ],
    jwks: {
      keys: [
        key("rsa", { modulusLength: 2048 }, { kid: "r", alg: "RS256" }),
        key("ec", { namedCurve: "P-256" }, { kid: "e", alg: "ES256" }),
      ],
    },
    cookies: { keys: ["for tests only"] },
    claims: {
      openid: ["sub"],
      email: ["email", "email_verified"],
      profile: ["name", "preferred_username"],
    },
    // Without this the claims of scopes are at the userinfo endpoint only.
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({
        sub: id,
        email: `${id}@acme.test`,
        email_verified: id !== "unverified",
        preferred_username: id,
      }),
    }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
