// Do the official JavaScript clients of OpenAI and Anthropic accept our server?
//
//     node bench/clients.mjs URL MODEL        (for example http://127.0.0.1:8000 speedrun)
//
// Run where `npm install openai @anthropic-ai/sdk` was. Prints a line for each check; ends with 1 if one fails.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages lie where this is run, not beside this file.
const here = createRequire(pathToFileURL(`${process.cwd()}/`));
const { default: OpenAI } = await import(pathToFileURL(here.resolve("openai")).href);
const { default: Anthropic } = await import(pathToFileURL(here.resolve("@anthropic-ai/sdk")).href);

const [url, model] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "你好! What is 2 + 3?" }];
const tool = { name: "weather", description: "The weather of a city." };
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const checks = {
  async chat() {
    const request = { model, messages, max_tokens: 16, temperature: 0 };
    const whole = (await openai.chat.completions.create(request)).choices[0].message.content;
    let text = "";
    for await (const chunk of await openai.chat.completions.create({ ...request, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.equal(text, whole);
    return whole;
  },
  async responses() {
    const reply = await openai.responses.create({ model, input: "你好!", max_output_tokens: 12, temperature: 0 });
    assert.equal(typeof reply.output_text, "string");
    return reply.output_text;
  },
  async tools() {
    const tools = [{ type: "function", function: { ...tool, parameters: schema } }];
    const reply = await openai.chat.completions.create({ model, messages, tools, max_tokens: 16, temperature: 0 });
    return reply.choices[0].finish_reason;
  },
  async structured() {
    const verdict = {
      type: "object",
      properties: { kind: { enum: ["clay", "ore"] }, fired: { type: "boolean" } },
      required: ["kind", "fired"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "verdict", strict: true, schema: verdict } };
    const request = { model, messages, response_format, max_tokens: 120, temperature: 0 };
    const reply = await openai.chat.completions.create(request);
    const value = JSON.parse(reply.choices[0].message.content);
    assert.ok(["clay", "ore"].includes(value.kind) && typeof value.fired === "boolean");
    return value;
  },
  async forcedCall() {
    const parameters = { ...schema, properties: { city: { enum: ["Jingdezhen", "景德镇"] } }, additionalProperties: false };
    const tools = [{ type: "function", function: { ...tool, parameters } }];
    const more = { tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 120, temperature: 0 };
    const stream = openai.chat.completions.stream({ model, messages, ...more });
    const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
    assert.ok(["Jingdezhen", "景德镇"].includes(JSON.parse(call.function.arguments).city));
    return call.function.arguments;
  },
  async errors() {
    const asked = openai.chat.completions.create({ model: "no-such-model", messages });
    await assert.rejects(asked, (error) => error instanceof OpenAI.NotFoundError && /no-such-model/.test(error.message));
    const refused = anthropic.messages.create({ model: "no-such-model", max_tokens: 1, messages });
    await assert.rejects(refused, (error) => error instanceof Anthropic.NotFoundError);
    return "both name the model";
  },
  async anthropic() {
    const request = { model, max_tokens: 16, messages, temperature: 0 };
    const whole = await anthropic.messages.create(request);
    let text = "";
    const stream = anthropic.messages.stream(request).on("text", (piece) => (text += piece));
    const final = await stream.finalMessage();
    assert.equal(text, whole.content[0].text);
    assert.equal(final.stop_reason, whole.stop_reason);
    return text;
  },
  async anthropicTools() {
    const tools = [{ ...tool, input_schema: schema }];
    const reply = await anthropic.messages.create({ model, max_tokens: 16, messages, tools, temperature: 0 });
    return reply.stop_reason;
  },
  async anthropicForcedCall() {
    const input_schema = { ...schema, properties: { city: { enum: ["Jingdezhen", "景德镇"] } }, additionalProperties: false };
    const more = { tools: [{ ...tool, input_schema }], tool_choice: { type: "any", disable_parallel_tool_use: true } };
    const reply = await anthropic.messages.create({ model, max_tokens: 120, messages, temperature: 0, ...more });
    assert.equal(reply.stop_reason, "tool_use");
    assert.ok(["Jingdezhen", "景德镇"].includes(reply.content[0].input.city));
    return reply.content[0].input;
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    console.log(`ok      ${name}: ${JSON.stringify(await check())}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error}`);
  }
}
console.log(`${Object.keys(checks).length - failed} of ${Object.keys(checks).length} checks passed`);
process.exit(failed ? 1 : 0);
