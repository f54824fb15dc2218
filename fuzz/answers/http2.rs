//! Answers to checks by HTTP/2: any bytes, and right frames with any body.

use lb_userspace::health::recorded::{Recorded, http2};
use lb_userspace::model::{HttpCheck, ProbeVerdict};

use super::checked;
use super::frames::{DATA, END_STREAM, begin, frame};

/// The bytes choose a check and what the target says.
pub(super) fn run(bytes: &[u8]) {
    let Some((&[choice, piece], said)) = bytes.split_first_chunk() else {
        return;
    };
    let check = HttpCheck {
        method: ["GET", "HEAD"][usize::from(choice & 1)].to_owned(),
        path: "/health".to_owned(),
        host: None,
        expect_status: vec![(200, 299), (404, 404)],
        expect_body: match choice & 2 {
            0 => None,
            _ => Some("ready".to_owned()),
        },
    };
    let framed = choice & 4 != 0;
    let answer = match framed {
        false => said.to_vec(),
        true => {
            // In two frames, so that the text may lie across.
            let (first, second) = said.split_at(said.len().min(piece.into()));
            [
                begin(),
                frame(DATA, 0, first),
                frame(DATA, END_STREAM, second),
            ]
            .concat()
        }
    };
    let most = if piece == 0 { usize::MAX } else { piece.into() };
    let target = Recorded::new(&answer, most);
    let verdict = checked::wait(http2(target, &check));
    checked::verdict(&verdict);
    if framed && choice & 3 == 2 {
        let found = said.windows(5).any(|text| text == b"ready");
        assert_eq!(verdict == ProbeVerdict::Good, found, "{verdict:?}");
    }
}
