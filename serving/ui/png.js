// PNG files, and the parameters that they carry.

/** The parameters in a PNG's text chunk "omnigen2", or null. buffer: the file's ArrayBuffer. */
export function parametersOf(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const latin = (from, to) => new TextDecoder("latin1").decode(bytes.subarray(from, to));
  if (latin(1, 4) !== "PNG") return null;
  for (let place = 8; place + 12 <= bytes.length; place += view.getUint32(place) + 12) {
    const length = view.getUint32(place);
    if (latin(place + 4, place + 8) !== "tEXt" || length > 2 ** 20) continue;
    const text = latin(place + 8, place + 8 + length);
    if (!text.startsWith("omnigen2\0")) continue;
    try {
      return JSON.parse(text.slice(9));
    } catch {
      return null;
    }
  }
  return null;
}

/** The ArrayBuffer of base64 text. */
export function bufferOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}
