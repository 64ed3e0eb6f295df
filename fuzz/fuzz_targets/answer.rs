#![no_main]
//! See `house::fuzz::answer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = house::fuzz::answer(data);
});
