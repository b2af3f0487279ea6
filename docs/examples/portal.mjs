// A portal in another language: seal the person, sign the record, print what to hand to a Kafka client.
//
// With DSR_SIGNING_KEY_FILE (from `dsr keys new portal:website`) and DSR_INTAKE_KEYS set, and `npm install jose`:
//   node docs/examples/portal.mjs someone@example.org
// It needs Node 20 or newer. `sealed` and `signed` run in a browser as well.
import { CompactEncrypt, CompactSign, base64url, compactVerify, createLocalJWKSet, importJWK } from 'jose'

const utf8 = new TextEncoder()

/** The key to seal to. With `trust`, a JWK set that holds the orchestrator's key, the answer must be signed by it. */
export async function intakeKey(url, trust) {
  const answer = await fetch(url, { headers: { accept: `application/jwk-set+${trust ? 'jwt' : 'json'}` } })
  if (!answer.ok) throw new Error(`the intake keys could not be fetched: ${answer.status}`)
  if (!trust) return (await answer.json()).keys[0]
  const ours = { keys: trust.keys.filter((key) => key.principal === 'orchestrator') }
  const { payload, protectedHeader } = await compactVerify(await answer.text(), createLocalJWKSet(ours))
  const set = JSON.parse(new TextDecoder().decode(payload))
  if (protectedHeader.typ !== 'jwk-set+jwt' || set.exp * 1000 <= Date.now()) throw new Error('the intake keys are not to be believed')
  return set.keys[0]
}

/** What stands in `sealed`: a JWE that only the orchestrator opens, and only for this request. */
export async function sealed(person, key, id) {
  return new CompactEncrypt(utf8.encode(JSON.stringify(person)))
    .setProtectedHeader({ alg: 'ECDH-ES', enc: 'A256GCM', typ: 'dsr-intake', kid: key.kid })
    .setKeyManagementParameters({ apu: utf8.encode(id) })
    .encrypt(await importJWK(key, 'ECDH-ES'))
}

/** The header `dsr-signature` of a lone record. */
export async function signed(type, key, value, signer) {
  const parts = [type, 'requests', key, value].map((part) => utf8.encode(part))
  const framed = parts.flatMap((part) => [new Uint8Array(new Uint32Array([part.length]).buffer).reverse(), part])
  const leaf = await crypto.subtle.digest('SHA-256', await new Blob([new Uint8Array(1), ...framed]).arrayBuffer())
  const tree = JSON.stringify({ root: base64url.encode(new Uint8Array(leaf)), size: 1 })
  const jws = await new CompactSign(utf8.encode(tree))
    .setProtectedHeader({ alg: 'Ed25519', kid: signer.kid, typ: 'dsr-tree' })
    .sign(await importJWK(signer, 'Ed25519'))
  return `${jws}~0~`
}

/** By which topic everything goes that is said of a request with this right. */
export const topicOf = (right) => (['objection', 'unsubscribe'].includes(right) ? 'dsr.requests.urgent.v1' : 'dsr.requests.v1')

/** The record of an erasure. Store it before you publish it: sealed again it is another one under the same id. */
export async function erasure(email, key, signer, id = crypto.randomUUID(), now = new Date().toISOString()) {
  const value = JSON.stringify({
    type: 'SubmitRequest',
    subject_request_id: id,
    portal: 'website',
    right: 'erasure',
    submitted_at: now,
    sealed: await sealed({ identifiers: { email: [email] } }, key, id),
    verification: { method: 'login', level: 'substantial', verified_at: now },
  })
  const headers = { 'dsr-type': 'SubmitRequest', 'dsr-version': '1', 'dsr-signature': await signed('SubmitRequest', id, value, signer) }
  return { topic: topicOf('erasure'), key: id, value, headers }
}

if (globalThis.process?.argv[1]?.endsWith('portal.mjs')) {
  const { readFileSync } = await import('node:fs')
  const json = (name) => JSON.parse(readFileSync(process.env[name]))
  const url = process.env.DSR_INTAKE_KEYS ?? 'http://127.0.0.1:9464/v1/intake-keys'
  const key = await intakeKey(url, process.env.DSR_TRUST_FILE && json('DSR_TRUST_FILE'))
  console.log(JSON.stringify(await erasure(process.argv[2], key, json('DSR_SIGNING_KEY_FILE'))))
}
