/** File uploads: the host hands out a single-use URL, the bytes go there over HTTP. */

import { HostError } from './errors.mjs';
import { request } from './operations.mjs';

/**
 * Store a file.
 *
 * @param {?object} call the call it works for; null in a protocol-1 script.
 * @param {string} runtimeUrl base of a relative upload URL.
 * @param {string|Uint8Array|ArrayBuffer|Blob} content text is stored as UTF-8.
 * @param {string} [name]
 * @param {string} [type] content type.
 * @returns {Promise<string>} the file id.
 * @throws {TypeError} the content is of another kind.
 * @throws {HostError} the host's error text.
 */
export async function uploadFile(
  call,
  runtimeUrl,
  content,
  name = 'file',
  type = 'application/octet-stream',
) {
  const bytes = await toBytes(content);
  const fields = { name, content_type: type, size: bytes.byteLength };
  const { url } = await request(call, 'storage_upload', fields);
  const response = await fetch(new URL(url, runtimeUrl || undefined), {
    method: 'POST',
    headers: { 'content-type': type },
    body: bytes,
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new HostError(answer.error ?? `upload failed: HTTP ${response.status}`);
  return answer.file_id;
}

async function toBytes(content) {
  if (typeof content === 'string') return Buffer.from(content);
  if (content instanceof Uint8Array) return content;
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  if (content instanceof Blob) return new Uint8Array(await content.arrayBuffer());
  throw new TypeError('file content must be text, Uint8Array, ArrayBuffer or Blob');
}
