// The official OpenAI SDK for Node.js, unmodified. One case per run: node suite.mjs CASE; exit status 0 when it holds.
// What the case found is printed as one line of JSON. POTLUCK_BASE_URL and POTLUCK_KEY say where the gateway is.
import assert from "node:assert/strict";
import OpenAI from "openai";

const MODEL = "smollm2-135m";
const settings = { baseURL: process.env.POTLUCK_BASE_URL, apiKey: process.env.POTLUCK_KEY, maxRetries: 0 };
const client = new OpenAI(settings);
const hi = [{ role: "user", content: "Say hi." }];
const story = [{ role: "user", content: "Tell me a long story about a fox." }];
const weather = [{ role: "user", content: "What is the weather in Paris?" }];
const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const tools = [
  { type: "function", function: { name: "get_weather", description: "Get the weather of a city", parameters: city } },
];

const chat = (more) => client.chat.completions.create({ model: MODEL, messages: hi, max_tokens: 12, ...more });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function fails(kind, status, promise) {
  const error = await promise.then(() => assert.fail("it did not fail"), (reason) => reason);
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  assert.equal(error.status, status);
  assert.match(error.headers.get("x-request-id"), /^req_/);
  return error;
}

export const cases = {
  async chat() {
    const answer = await chat();
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.model, MODEL);
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.match(answer._request_id, /^req_/);
  },

  async stream() {
    const chunks = await collect(await chat({ stream: true }));
    assert.ok(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""));
    assert.match(chunks.at(-1).choices[0].finish_reason, /stop|length/);
    assert.ok(chunks.every((chunk) => !chunk.usage));
  },

  async stream_with_usage() {
    const more = { messages: story, stream: true, stream_options: { include_usage: true }, ignore_eos: true };
    const chunks = await collect(await chat(more));
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, 12);
    assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage));
  },

  async stream_helper() {
    const stream = client.chat.completions.stream({ model: MODEL, messages: hi, max_tokens: 400, temperature: 0 });
    let said = "";
    stream.on("content", (delta) => (said += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].message.content, said);
  },

  async tools() {
    const answer = await chat({ messages: weather, tools, max_tokens: 100, temperature: 0 });
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
  },

  async tools_stream() {
    const request = { model: MODEL, messages: weather, tools, max_tokens: 100, temperature: 0 };
    const final = await client.chat.completions.stream(request).finalChatCompletion();
    const [call] = final.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
  },

  async run_tools() {
    const asked = [];
    const get_weather = (args) => (asked.push(args), "sunny, 21 degrees");
    const runnable = { ...tools[0], function: { ...tools[0].function, function: get_weather, parse: JSON.parse } };
    const request = { model: MODEL, messages: weather, tools: [runnable], max_tokens: 60, temperature: 0 };
    const runner = client.chat.completions.runTools(request, { maxChatCompletions: 2 });
    await runner.done();
    assert.deepEqual(asked[0], { city: "Paris" });
    assert.equal(runner.messages.at(-2).role, "tool");
    assert.match(runner.messages.at(-1).content, /sunny/);
  },

  async json_schema() {
    const schema = { type: "object", properties: { name: { type: "string" }, age: { type: "integer" } } };
    Object.assign(schema, { required: ["name", "age"], additionalProperties: false });
    const format = { type: "json_schema", json_schema: { name: "person", strict: true, schema } };
    const answer = await chat({ response_format: format, max_tokens: 200, temperature: 0 });
    const value = JSON.parse(answer.choices[0].message.content);
    assert.deepEqual(Object.keys(value), ["name", "age"]);
    assert.ok(Number.isInteger(value.age));
  },

  async logprobs() {
    const answer = await chat({ logprobs: true, top_logprobs: 2, max_tokens: 4 });
    const { content } = answer.choices[0].logprobs;
    assert.equal(content.length, answer.usage.completion_tokens);
    assert.ok(content.every((each) => each.logprob <= 0 && each.top_logprobs.length === 2));
  },

  async several_choices() {
    const answer = await chat({ messages: story, n: 3, max_tokens: 8, ignore_eos: true });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.equal(answer.usage.completion_tokens, 24);
  },

  async seed() {
    const said = async () =>
      (await chat({ messages: story, seed: 11, temperature: 1.5 })).choices[0].message.content;
    assert.equal(await said(), await said());
  },

  async completions() {
    const request = { model: MODEL, prompt: "Once upon a time", max_tokens: 8, temperature: 0 };
    const answer = await client.completions.create(request);
    const chunks = await collect(await client.completions.create({ ...request, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), answer.choices[0].text);
  },

  async embeddings() {
    const packed = await client.embeddings.create({ model: MODEL, input: ["hello", "world"] });
    const plain = await client.embeddings.create({ model: MODEL, input: ["hello", "world"], encoding_format: "float" });
    assert.deepEqual(packed.data.map((each) => each.embedding.length), [576, 576]);
    const gaps = packed.data.flatMap((each, i) => each.embedding.map((x, j) => Math.abs(x - plain.data[i].embedding[j])));
    assert.ok(Math.max(...gaps) < 1e-5);
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes(MODEL));
    assert.equal((await client.models.retrieve(MODEL)).object, "model");
  },

  async bad_request() {
    const ours = await fails(OpenAI.BadRequestError, 400, chat({ messages: "hi" }));
    assert.equal(ours.code, "invalid_request");
    const engines = await fails(OpenAI.BadRequestError, 400, chat({ temperature: "hot" }));
    assert.equal(engines.code, "invalid_request");
    await fails(OpenAI.BadRequestError, 400, chat({ temperature: "hot", stream: true }));
  },

  async authentication() {
    const stranger = new OpenAI({ ...settings, apiKey: "plk-wrong" });
    const error = await fails(OpenAI.AuthenticationError, 401, stranger.models.list());
    assert.equal(error.code, "invalid_api_key");
  },

  async not_found() {
    const error = await fails(OpenAI.NotFoundError, 404, chat({ model: "smollm2-135" }));
    assert.equal(error.code, "model_not_found");
    await fails(OpenAI.NotFoundError, 404, client.models.retrieve("nothing"));
    await fails(OpenAI.NotFoundError, 404, client.get("/nowhere"));
  },

  async too_large() {
    const content = "x".repeat(Number(process.env.POTLUCK_MAX_BODY_BYTES) + 1);
    await fails(OpenAI.APIError, 413, chat({ messages: [{ role: "user", content }] }));
    assert.ok((await chat()).choices.length);
  },

  async cancel() {
    const pending = chat({ messages: story, max_tokens: 1500, stream: true, ignore_eos: true });
    const { data: stream, request_id } = await pending.withResponse();
    let seen = 0;
    for await (const _ of stream) if (++seen === 5) break; // leaving the loop aborts the request
    assert.equal(seen, 5);
    return { request_id };
  },

  async abort_before_the_first_byte() {
    const controller = new AbortController();
    const request = { model: MODEL, messages: story, max_tokens: 1500, ignore_eos: true };
    const pending = client.chat.completions.create(request, { signal: controller.signal });
    setTimeout(() => controller.abort(), 500);
    await assert.rejects(pending, OpenAI.APIUserAbortError);
  },

  async many_at_once() {
    const answers = await Promise.all(Array.from({ length: 10 }, (_, seed) => chat({ seed, max_tokens: 6 })));
    assert.ok(answers.every((answer) => answer.choices[0].message.content));
  },
};

const wanted = process.argv[2];
if (wanted === "--list") console.log(JSON.stringify(Object.keys(cases)));
else console.log(JSON.stringify((await cases[wanted]()) ?? {}));
