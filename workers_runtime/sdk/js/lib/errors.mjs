/** Errors that handlers may meet, and the text a caller gets for one. */

const MAX_ERROR_CHARS = 4000;

/** The host's text for an operation whose call has ended. */
export const CALL_OVER = 'call is over';

/** The host answered an operation with an error; `message` is the host's text. */
export class HostError extends Error {
  name = 'HostError';
}

/** The host did not answer an operation in time. */
export class HostTimeout extends HostError {
  name = 'HostTimeout';
}

/** A tool of an agent run failed or was denied. */
export class ToolError extends HostError {
  name = 'ToolError';
}

/** A `ctx` was used after its handler had returned or its call had timed out. */
export class CallOver extends HostError {
  name = 'CallOver';

  constructor() {
    super(CALL_OVER);
  }
}

/** Thrown by `onJob` to have the job delivered again after `delay` seconds, 0-86400. */
export class Retry extends Error {
  name = 'Retry';

  constructor({ delay = 0 } = {}) {
    super(`retry in ${delay} s`);
    this.order = { retry: delay };
  }
}

/** Thrown by `onJob` to give the job up at once; the dead letter shows the reason. */
export class Reject extends Error {
  name = 'Reject';

  constructor(reason) {
    super(reason);
    this.order = { reject: String(reason) };
  }
}

/** A value has no JSON form; `cause` says why. */
export class NotSerialisable extends Error {
  name = 'NotSerialisable';
}

/** A message is longer than a line may be. */
export class TooLarge extends Error {
  name = 'TooLarge';

  constructor() {
    super('message too large');
  }
}

/**
 * Return the text the caller of a failed handler gets: the message, else the thrown value.
 *
 * @param {unknown} thrown
 * @returns {string}
 */
export function errorText(thrown) {
  const text = attempt(() => thrown.message);
  if (typeof text === 'string' && text !== '') return text.slice(0, MAX_ERROR_CHARS);
  const whole = attempt(() => String(thrown));
  return (whole ?? 'unknown error').slice(0, MAX_ERROR_CHARS);
}

/**
 * Return the text for the log: the stack where there is one.
 *
 * @param {unknown} thrown
 * @returns {string}
 */
export function errorDetail(thrown) {
  const stack = attempt(() => thrown.stack);
  return typeof stack === 'string' && stack !== '' ? stack : errorText(thrown);
}

/** Thrown values may be anything, getters that throw included. */
function attempt(read) {
  try {
    return read();
  } catch {
    return undefined;
  }
}
