// The characters of visible texts that are drawn as the box of a character that no font has.
() => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
  canvas.width = canvas.height = 48;
  const drawn = (letter, family) => {
    pen.clearRect(0, 0, 48, 48);
    pen.font = `32px ${family}`;
    pen.fillText(letter, 4, 36);
    return pen.getImageData(0, 0, 48, 48).data.join();
  };
  const missing = new Set(), seen = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const family = getComputedStyle(node.parentElement).fontFamily;
    for (const letter of node.textContent) {
      if (/\s/.test(letter) || seen.has(letter + family)) continue;
      seen.add(letter + family);
      if (drawn(letter, family) === drawn("\u{10FFFE}", family)) missing.add(letter);
    }
  }
  return [...missing];
}
