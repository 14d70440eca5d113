// The official OpenAI SDK for Node.js, unmodified: one stream, read to its end. node streams.mjs MODEL RETRIES BODY
// What was heard is printed as one line of JSON, whatever its end was. BODY is JSON: more members of the request.
import OpenAI from "openai";

const [model, retries, more] = process.argv.slice(2);
const client = new OpenAI({
  baseURL: process.env.POTLUCK_BASE_URL,
  apiKey: process.env.POTLUCK_KEY,
  maxRetries: Number(retries),
});
const heard = { text: "", finish: null, output_tokens: null, headers: {}, error: null };

try {
  const { data: stream, response } = await client.chat.completions
    .create({
      model,
      messages: [{ role: "user", content: "Tell me a story." }],
      stream: true,
      stream_options: { include_usage: true },
      ...JSON.parse(more),
    })
    .withResponse();
  heard.headers = Object.fromEntries(response.headers);
  for await (const chunk of stream) {
    const [choice] = chunk.choices;
    heard.text += choice?.delta.content ?? "";
    heard.finish = choice?.finish_reason ?? heard.finish;
    heard.output_tokens = chunk.usage?.completion_tokens ?? heard.output_tokens;
  }
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  const headers = error.headers ? Object.fromEntries(error.headers) : heard.headers;
  Object.assign(heard, {
    headers,
    error: { kind: error.constructor.name, code: error.code, message: error.message, status: error.status ?? null },
  });
}
console.log(JSON.stringify(heard));
