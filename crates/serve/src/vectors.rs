//! `POST /v1/embeddings` and `/v1/rerank`: texts to vectors, and documents by their likeness to a query. Knows no other route.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};
use token::Tokenizer;

use crate::answer::json_response;
use crate::models::Served;
use crate::routes::{Shared, read, span};
use crate::spans::Span;
use crate::wire::{ApiError, EmbeddingsCall, Input, RerankCall};

pub(crate) async fn embeddings(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (model, fields, _) = read(&shared, body).await?;
    let encoder = model.encoder()?;
    let call = EmbeddingsCall::read(fields, encoder.width)?;
    let inputs = call.inputs.into_iter().map(|input| match input {
        Input::Text(text) => whole_ids(&encoder.tokenizer, &text),
        Input::Ids(ids) => ids,
    });
    let span = span(&shared, "embeddings", &model.name, &headers);
    let (vectors, tokens) = vectors((&model, span), inputs.collect()).await?;
    let data = vectors.iter().enumerate().map(|(index, vector)| {
        let embedding = if call.base64 { json!(base64(vector)) } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    });
    let data: Vec<Value> = data.collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json_response(&json!({"object": "list", "data": data, "model": model.name, "usage": usage})))
}

/// Cosine of the vectors, as vLLM documents for models that make vectors.
pub(crate) async fn rerank(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (model, fields, _) = read(&shared, body).await?;
    let encoder = model.encoder()?;
    let call = RerankCall::read(fields)?;
    let texts = std::iter::once(&call.query).chain(&call.documents);
    let inputs = texts.map(|text| whole_ids(&encoder.tokenizer, text)).collect();
    let span = span(&shared, "rerank", &model.name, &headers);
    let (vectors, tokens) =
        vectors((&model, span), inputs).await.map_err(|error| error.with_param("input", "documents"))?;
    let Some((query, documents)) = vectors.split_first() else {
        return Err(ApiError::internal("The encoder gave no vector."));
    };
    let dot = |document: &Vec<f32>| query.iter().zip(document).map(|(a, b)| a * b).sum::<f32>();
    let mut scored: Vec<(usize, f32)> = documents.iter().map(dot).enumerate().collect();
    // The best first; of equals the earlier one.
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let results = scored.into_iter().take(call.top).map(|(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if call.return_documents {
            result["document"] = json!({"text": call.documents[index]});
        }
        result
    });
    let results: Vec<Value> = results.collect();
    let id = crate::ids::answer_id("rerank-");
    Ok(json_response(
        &json!({"id": id, "model": model.name, "usage": {"total_tokens": tokens}, "results": results}),
    ))
}

/// The vectors of documents, each of length 1, and the tokens of all.
async fn vectors(
    (model, mut span): (&Served, Option<Span>),
    inputs: Vec<Vec<u32>>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let tokens = inputs.iter().map(Vec::len).sum();
    let computed = model.encoder()?.queue.embed(inputs).await;
    if let Some(span) = &mut span {
        match &computed {
            Ok(_) => span.end(tokens, 0, &[]),
            Err(error) => span.fail(error.code().unwrap_or("failed")),
        }
    }
    Ok((computed?, tokens))
}

/// The ids of a text with what the model expects around it.
pub(crate) fn whole_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.opening_ids().to_vec();
    tokenizer.encode_into(text, &mut ids);
    ids.extend_from_slice(tokenizer.closing_ids());
    ids
}

/// RFC 4648, section 4, of the numbers' bytes, the lowest first.
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0u32, |bits, (place, byte)| bits | u32::from(*byte) << (16 - 8 * place));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn numbers_in_base64_are_those_of_python() {
        // base64.b64encode(struct.pack("<2f", 1.0, -2.5)), and one number alone.
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[]), "");
    }
}
