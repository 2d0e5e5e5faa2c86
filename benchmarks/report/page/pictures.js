// Crops beside each other with a slider over the widths, a showcase, and a film.

function picture(source, label, note) {
  const image = element("img", { src: source, alt: label });
  return { image, figure: element("figure", {}, image, element("figcaption", { textContent: note })) };
}

function scored({ label, psnr }) {
  return psnr === null ? label : `${label}: ${psnr.toFixed(2)} dB`;
}

// One slider moves all photographs; the references stay where they are.
function makeCrops(box, crops, network) {
  const networks = crops.images[0].crops.slice(2).map((crop) => crop.label);
  const slider = element("input", { type: "range", min: 0, max: networks.length - 1, step: 1, value: 0 });
  const output = element("output");
  const name = `One network at each of its widths${network ? `: ${network}` : ""}`;
  box.append(element("p", { className: "subject", textContent: name }));
  if (networks.length) box.append(element("label", { className: "slider" }, "Width", slider, output));
  const rows = crops.images.map((image) => {
    const [original, bicubic, ...others] = image.crops;
    const first = others[0] ?? bicubic;
    const [left, middle, right] = [bicubic, first, original].map((crop) =>
      picture(crop.source, `${image.name}, ${crop.label}`, scored(crop)),
    );
    box.append(element("div", { className: "crops" }, left.figure, middle.figure, right.figure));
    box.append(element("p", { className: "credit", textContent: `${image.name}: ${image.credit}` }));
    return { image, others, middle };
  });
  box.append(element("p", { className: "credit", textContent: `${crops.measured}.` }));

  function slide() {
    const label = networks[slider.value];
    output.textContent = label;
    slider.setAttribute("aria-valuetext", label);
    for (const { image, others, middle } of rows) {
      const crop = others[slider.value];
      Object.assign(middle.image, { src: crop.source, alt: `${image.name}, ${crop.label}` });
      middle.figure.lastChild.textContent = scored(crop);
    }
  }
  slider.addEventListener("input", slide);
  if (networks.length) slide();
}

function makePictures(box, pictures) {
  const network = box.dataset.network;
  const of = network ? `: ${network}` : "";
  if (pictures.crops) makeCrops(box, pictures.crops, network);
  if (pictures.showcase) {
    const note = `One network at each of its widths${of}`;
    box.append(picture(pictures.showcase, "What the network puts out at each of its widths", note).figure);
  }
  if (pictures.video) {
    const film = picture(pictures.video, "One episode, played at several widths beside each other", `One episode${of}`);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const summary = element("summary", { textContent: "The policy at several widths, playing the same episode" });
    const reel = element("div", { className: "scroll", tabIndex: 0 }, film.figure);
    box.append(element("details", { className: "film", open: !still }, summary, reel));
  }
}
