//! The interface of simulated encoders, which predict the tokens of a stream.

use super::deflate::Token;

/// Where a predictor begins. Offsets are those of the bytes it is given.
pub(super) struct PredictorStart {
    /// The first byte it may refer to: of the member, or of the dictionary.
    pub(super) from: usize,
    /// The next byte.
    pub(super) at: usize,
    /// Bytes of the encoder's run before `at`, some of which may not be given.
    pub(super) since: u64,
    /// Where the encoder's input ended.
    pub(super) end: usize,
    /// The encoder kept its tables when the run began.
    pub(super) keeps_tables: bool,
}

/// Predicts the tokens of an encoder.
pub(super) trait Predictor {
    /// Begins a run, or a segment in the middle of one.
    fn start(&mut self, data: &[u8], span: &PredictorStart);
    /// Predicts the token that begins at `at`.
    fn predict(&mut self, data: &[u8], at: usize) -> Token;
    /// Says that the last prediction was wrong; the next token begins at `at`.
    fn correct(&mut self, at: usize);
    /// Skips bytes without tokens up to `at`.
    fn skip(&mut self, data: &[u8], at: usize);
}

/// Records the predictions of another predictor.
pub(super) struct Recorder {
    pub(super) inner: Box<dyn Predictor>,
    pub(super) predictions: Vec<Token>,
}

impl Predictor for Recorder {
    fn start(&mut self, data: &[u8], span: &PredictorStart) {
        self.inner.start(data, span);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        let token = self.inner.predict(data, at);
        self.predictions.push(token);
        token
    }

    fn correct(&mut self, at: usize) {
        self.inner.correct(at);
    }

    fn skip(&mut self, data: &[u8], at: usize) {
        self.inner.skip(data, at);
    }
}

/// Repeats recorded predictions.
pub(super) struct Replay(pub(super) std::vec::IntoIter<Token>);

impl Predictor for Replay {
    fn start(&mut self, _: &[u8], _: &PredictorStart) {}

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        self.0.next().unwrap_or(Token::literal(data[at]))
    }

    fn correct(&mut self, _: usize) {}

    fn skip(&mut self, _: &[u8], _: usize) {}
}

/// Returns the length of the common prefix; `b` is at least as long as `a`.
#[inline]
pub(super) fn match_len(a: &[u8], b: &[u8]) -> usize {
    let b = &b[..a.len()];
    let (wide_a, rest_a) = a.as_chunks::<8>();
    let (wide_b, _) = b.as_chunks::<8>();
    for (i, (x, y)) in wide_a.iter().zip(wide_b).enumerate() {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return i * 8 + differing.trailing_zeros() as usize / 8;
        }
    }
    let done = a.len() - rest_a.len();
    done + rest_a.iter().zip(&b[done..]).take_while(|(x, y)| x == y).count()
}
