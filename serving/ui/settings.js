// A drawing's settings, in three forms: the fields of the page's form, a request's body, and the parameters of a picture's file.

const NUMBERS = ["num_inference_steps", "guidance_scale", "image_guidance_scale", "max_pixels", "seed"];

/** "512x384" as people read it. */
export const sizeText = (size) => size.replace("x", " × ");

/** The form's fields as a request's body. */
export function readForm(form) {
  const { guide_from: from, guide_until: until, ...fields } = Object.fromEntries(new FormData(form));
  for (const name of NUMBERS) fields[name] = fields[name] === "" ? undefined : Number(fields[name]);
  return { kind: "draw", ...fields, cfg_range: [Number(from), Number(until)] };
}

/** Sets the form's fields to a body's values. A field that the body lacks stays as it is. */
export function fillForm(form, body) {
  const [from, until] = body.cfg_range ?? [];
  for (const [name, value] of Object.entries({ ...body, guide_from: from, guide_until: until })) {
    const field = form.elements.namedItem(name);
    if (!field || value === undefined || value === null) continue;
    const isMissing = field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value);
    if (isMissing) field.add(new Option(sizeText(value), value));
    field.value = value;
  }
}

/** The body that repeats the drawing of a file's parameters. It lacks `images` where there were some: the file doesn't hold them. */
export function bodyOf(parameters) {
  const { width_px: width, height_px: height } = parameters;
  const body = {
    kind: "draw", model: parameters.bundle, prompt: parameters.prompt, negative_prompt: parameters.negative_prompt,
    size: width && height ? `${width}x${height}` : "auto", num_inference_steps: parameters.steps, guidance_scale: parameters.text_guidance,
    image_guidance_scale: parameters.image_guidance, cfg_range: parameters.cfg_range, scheduler: parameters.scheduler,
    cache: /^(TeaCache|TaylorSeer)/.exec(parameters.cache ?? "")?.[1].toLowerCase() ?? "none", max_pixels: parameters.max_pixels,
    seed: parameters.seed,
  };
  return parameters.images?.length ? body : { ...body, images: [] };
}
