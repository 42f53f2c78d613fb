/** Lines of the host on stdin, read only once somebody wants them. */

const LF = 0x0a;

/** Cuts chunks of bytes into lines. */
class Lines {
  #parts = [];

  /**
   * Take the next bytes.
   *
   * @param {Uint8Array} chunk
   * @returns {string[]} the lines they complete, without LF.
   */
  feed(chunk) {
    const lines = [];
    let start = 0;
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, start)) {
      this.#parts.push(chunk.subarray(start, end));
      lines.push(Buffer.concat(this.#parts).toString('utf8'));
      this.#parts = [];
      start = end + 1;
    }
    if (start < chunk.length) this.#parts.push(chunk.subarray(start));
    return lines;
  }
}

/**
 * Read the host's lines beside whatever else reads stdin.
 *
 * stdin stays paused, and the pipe keeps the messages, until `open` is called or the entry point
 * attaches a reader of its own (a protocol-1 script).
 *
 * @param {(line: string) => void} onLine
 * @param {() => void} onEnd the host closed the pipe.
 * @returns {{open: () => void, readonly opened: boolean}}
 */
export function listen(onLine, onEnd) {
  const { stdin } = process;
  const lines = new Lines();
  let opened = false;
  const take = (chunk) => {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    for (const line of lines.feed(bytes)) onLine(line);
  };
  const open = () => {
    if (opened) return;
    opened = true;
    stdin.on('data', take);
    stdin.on('end', onEnd);
  };
  stdin.on('newListener', (event) => {
    if (event === 'data' || event === 'readable') open();
  });
  return {
    open,
    get opened() {
      return opened;
    },
  };
}
