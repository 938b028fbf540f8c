use super::*;
use phasor::plan::attention::Tile;
#[test]
fn experiment() {
    let gpu = &lab().gpu;
    for ropepp in [true, false] {
        for (tx, ty, row_pairs, key_quads) in [(8, 8, 2, 1), (8, 8, 1, 1), (4, 4, 1, 1), (8, 4, 1, 1), (2, 2, 1, 1)] {
            for apart in [true, false] {
                let heads = if ropepp { HeadMap::ropepp(2) } else { HeadMap::plain(2) };
                let p = AttentionProblem { lse: true, ..AttentionProblem::new(heads.unwrap(), 1, 16) };
                let tile = Tile { tx, ty, row_pairs, key_quads, chunk_units: 2, q_resident: true, v_quads: key_quads * tx, pv_apart: apart };
                let plan = AttentionPlan::with_tile(&p, &gpu.capabilities(), tile).unwrap();
                let t = std::time::Instant::now();
                lab().attention(&plan).unwrap();
                let t1 = t.elapsed();
                let case = Case::planned(plan);
                let t = std::time::Instant::now();
                let r = case.check();
                println!("{ropepp} {tx} {ty} {row_pairs} {apart}: compile {t1:?} run {:?} {:?}", t.elapsed(), r.is_ok());
            }
        }
    }
}
