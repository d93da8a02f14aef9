// The llama-like API from Node.js: the documented program, with only its URL changed.
// Run: node examples/seed/index.js (LIBERTAI_API_BASE names the server)
const API_BASE = process.env.LIBERTAI_API_BASE ?? "http://127.0.0.1:8080";

const prompt = `Building a website can be done in 10 simple steps:`;

async function Test() {
    let response = await fetch(`${API_BASE}/completion`, {
        method: 'POST',
        body: JSON.stringify({
            prompt,
            n_predict: 512,
        })
    })
    console.log((await response.json()).content)
}

Test()
