// The contrast of every visible text to what is painted behind its middle (WCAG 2.2).
() => {
  const parse = (text) => {
    const numbers = (text.match(/[\d.]+(e-?\d+)?/g) || []).map(Number);
    if (text.startsWith("color(srgb")) return [...numbers.slice(0, 3).map((n) => 255 * n), numbers[3] ?? 1];
    return text === "none" || numbers.length < 3 ? [0, 0, 0, 0] : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((n) => n / 255).map((n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const painted = (element) => {
    const style = getComputedStyle(element);
    if (!(element instanceof SVGElement) || element instanceof SVGSVGElement) return parse(style.backgroundColor);
    if (element.closest("text")) return [0, 0, 0, 0];
    const colour = parse(style.fill);
    return [...colour.slice(0, 3), colour[3] * Number(style.fillOpacity) * Number(style.opacity)];
  };
  const ancestors = (element) => (element ? [element, ...ancestors(element.parentElement)] : []);
  const behind = (element, x, y) => {
    const stack = document.elementsFromPoint(x, y);
    const at = stack.findIndex((one) => one === element || element.contains(one) || one.contains(element));
    const below = at < 0 ? ancestors(element) : stack.slice(at);
    const layers = [];
    for (const one of below) {
      layers.push(painted(one));
      if (layers[layers.length - 1][3] >= 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, text = node.textContent.trim(), range = document.createRange();
    if (!text || !element.checkVisibility({ visibilityProperty: true })) continue;
    range.selectNodeContents(node);
    element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
    const box = range.getClientRects()[0];
    if (!box || !box.width) continue;
    const style = getComputedStyle(element), colour = parse(element.closest("svg") ? style.fill : style.color);
    const back = behind(element, box.x + box.width / 2, box.y + box.height / 2);
    const [dark, light] = [luminance(over(colour, back)), luminance(back)].sort((a, b) => a - b);
    found.push({ text: text.slice(0, 60), ratio: (light + 0.05) / (dark + 0.05), colour: colour, back: back });
  }
  return found;
}
