from segfix.training.export import *
from segfix.training.datasets import find_labelled_images
def test_x(trained, data):
    print(trained.scores)
    net,d=load_checkpoint(trained.out/"model.safetensors")
    m=OffsetNetwork(net,d["mean"],d["std"]).eval()
    im,lab=find_labelled_images(data)[0].read()
    from segfix.geometry import make_targets
    t=make_targets(lab,boundary_width=3)
    print("share",(t.boundary_map==1).mean())
    with torch.inference_mode(): o=[x.numpy() for x in m(torch.from_numpy(im.transpose(2,0,1)[None].copy()))]
    print((o[1]>127).mean(), o[1].min(),o[1].max(), np.bincount(o[0].ravel()))
    print((trained.out/"log.csv").read_text())
