/** JSON text of values that handlers return and send. */

import { NotSerialisable, TooLarge } from './errors.mjs';

/**
 * Return the JSON text of a value.
 *
 * Beyond JSON.stringify: Map becomes an object, Set an array, bytes base64 and BigInt a string,
 * as the Python SDK does with their counterparts. Halves of surrogate pairs, which UTF-8 cannot
 * carry, become U+FFFD.
 *
 * @param {object} value
 * @returns {string}
 * @throws {NotSerialisable} cyclic, or its own `toJSON` failed.
 * @throws {TooLarge} longer than any text can be.
 */
export function toJSON(value) {
  const text = stringify(value);
  return text.includes('\\ud') ? withoutHalfPairs(text) : text;
}

function stringify(value) {
  try {
    return JSON.stringify(value, replace);
  } catch (error) {
    if (error instanceof RangeError && /string length/.test(error.message)) throw new TooLarge();
    throw new NotSerialisable(error?.message ?? 'no JSON form', { cause: error });
  }
}

function replace(key, value) {
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  // Buffer and others with a `toJSON` arrive converted; the holder still has the original.
  const original = this[key];
  if (original instanceof Uint8Array || original instanceof ArrayBuffer) {
    return Buffer.from(original).toString('base64');
  }
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  return value;
}

/** JSON.stringify escapes exactly the halves; whole pairs it leaves as they are. */
function withoutHalfPairs(text) {
  return text.replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, (escape) =>
    escape.startsWith('\\ud') ? '\\ufffd' : escape,
  );
}
